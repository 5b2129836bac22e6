//! The session by tables: one cause, one consequence.

use alluvium_proto::batch::BatchBuilder;
use alluvium_runtime::entropy::Entropy;
use alluvium_types::batch::Codec;
use alluvium_types::time::Timestamp;

use super::*;

const NOW: Mono = Mono::from_duration(Duration::ZERO);
const LATER: Mono = Mono::from_duration(Duration::from_secs(10));
const TIMEOUT: Duration = Duration::from_secs(60);

fn rules(name: Option<&str>) -> Rules {
    Rules { name: name.map(str::to_owned), resend_unresolved: false, timeout: TIMEOUT }
}

fn session(name: Option<&str>) -> Session<u64> {
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1), Entropy::seeded(1));
    Session::new(rules(name), 2, &backoff)
}

fn batch(first_sequence: u64, count: u32) -> v1::Batch {
    let mut builder = BatchBuilder::with_capacity(0);
    for n in 0..count {
        builder.push(&v1::Message { payload: n.to_string().into(), ..Default::default() });
    }
    builder.finish(Codec::None, first_sequence, Timestamp::from_millis(1))
}

/// The token of a batch is its first sequence.
fn add(session: &mut Session<u64>, first_sequence: u64) {
    session.add(Closed { partition: 0, batch: batch(first_sequence, 1), outcome: first_sequence, since: NOW });
}

fn claimed(session: &mut Session<u64>, epoch: u64, last_sequence: Option<u64>) {
    session.want_claim(0, NOW);
    assert!(matches!(session.next_request(LATER), Some(Request::Claim { partition: 0, .. })));
    session.on_claimed(v1::PublishClaimed { partition: 0, epoch, last_sequence, ..Default::default() }, LATER);
}

/// What is sent now: number and first sequence of each.
fn sent(session: &mut Session<u64>, now: Mono) -> Vec<(u64, u64)> {
    let requests = std::iter::from_fn(|| session.next_request(now));
    requests
        .map(|request| match request {
            Request::Batch { id, batch, .. } => (id, batch.first_sequence),
            Request::Claim { .. } => panic!("nothing is to be claimed"),
        })
        .collect()
}

fn stored(id: u64, first_offset: u64) -> v1::PublishReceipt {
    v1::PublishReceipt { id, partition: 0, first_offset, ..Default::default() }
}

fn refused(id: u64, fault: v1::Fault) -> v1::PublishReceipt {
    v1::PublishReceipt { id, partition: 0, fault: Some(fault), ..Default::default() }
}

fn busy() -> v1::Fault {
    v1::Fault { code: 8, reason: "BUSY".into(), retry_after_ms: Some(100), ..Default::default() }
}

fn permanent() -> v1::Fault {
    v1::Fault { code: 3, reason: "BATCH_CHECKSUM".into(), ..Default::default() }
}

fn unknown() -> v1::Fault {
    v1::Fault { code: 2, reason: "LOST".into(), outcome_unknown: true, ..Default::default() }
}

/// Told outcomes as text, and the names of other effects.
fn effects(session: &mut Session<u64>) -> Vec<String> {
    let text = |effect| match effect {
        Effect::Told(token, Ok(stored)) => match stored.first_offset {
            Some(offset) => format!("{token} at {offset}"),
            None => format!("{token} stored"),
        },
        Effect::Told(token, Err(error)) => {
            let unknown = if error.outcome_unknown() { "unknown" } else { "failed" };
            match error {
                Error::Behind { .. } => format!("{token} behind"),
                _ => format!("{token} {unknown}"),
            }
        }
        Effect::Claimed { stored, .. } => format!("claimed {stored:?}"),
        Effect::Unclaimed { .. } => "unclaimed".to_owned(),
        Effect::Broken { next, .. } => format!("broken {next:?}"),
        Effect::Reconnect(_) => "reconnect".to_owned(),
        Effect::Over(_) => "over".to_owned(),
    };
    session.effects().into_iter().map(text).collect()
}

#[test]
fn without_a_name_a_lost_stream_leaves_what_was_sent_unresolved_and_keeps_the_rest() {
    let mut session = session(None);
    add(&mut session, 0);
    assert_eq!(sent(&mut session, NOW).len(), 1);
    session.add(Closed { partition: 0, batch: batch(0, 1), outcome: 7, since: NOW });
    session.on_disconnected(&Error::Closed, NOW);
    assert_eq!(effects(&mut session), ["0 unknown"]);
    assert_eq!(sent(&mut session, NOW).len(), 1, "what was not sent goes on the next stream");
}

#[test]
fn without_a_name_what_was_sent_is_sent_again_if_the_application_asked_for_it() {
    let mut session = session(None);
    session.rules.resend_unresolved = true;
    add(&mut session, 0);
    let first = sent(&mut session, NOW);
    session.on_disconnected(&Error::Closed, NOW);
    assert_eq!(effects(&mut session), [""; 0]);
    let again = sent(&mut session, NOW);
    session.on_receipt(stored(first[0].0, 3), NOW);
    assert_eq!(effects(&mut session), [""; 0], "a receipt of the lost stream says nothing");
    session.on_receipt(stored(again[0].0, 4), NOW);
    assert_eq!(effects(&mut session), ["0 at 4"]);
}

#[test]
fn a_named_producer_claims_before_it_sends_and_begins_behind_what_is_stored() {
    let mut session = session(Some("p"));
    assert!(!session.accepts(0, NOW));
    claimed(&mut session, 1, Some(4));
    assert_eq!(effects(&mut session), ["claimed Some(4)"]);
    assert!(session.accepts(0, NOW));
    add(&mut session, 5);
    let ids = sent(&mut session, NOW);
    session.on_receipt(stored(ids[0].0, 40), NOW);
    assert_eq!(effects(&mut session), ["5 at 40"]);
}

#[test]
fn d6_after_a_fault_that_passes_it_and_everything_behind_it_are_sent_again_in_order() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    for sequence in 0..4 {
        add(&mut session, sequence);
    }
    let first = sent(&mut session, NOW);
    session.effects();
    session.on_receipt(stored(first[0].0, 0), NOW);
    session.on_receipt(refused(first[1].0, busy()), NOW);
    let gap = v1::Fault { code: 9, reason: "SEQUENCE_GAP".into(), ..Default::default() };
    for (id, _) in &first[2..] {
        session.on_receipt(refused(*id, gap.clone()), NOW);
    }
    assert_eq!(effects(&mut session), ["0 at 0"], "the gaps are of our own making");
    assert!(sent(&mut session, NOW).is_empty(), "not before the server's advice");
    let resume = session.deadline(NOW).expect("it is not forgotten");
    assert!(resume >= NOW.after(Duration::from_millis(100)));
    let again: Vec<u64> = sent(&mut session, resume).iter().map(|(_, sequence)| *sequence).collect();
    assert_eq!(again, [1, 2, 3]);
}

#[test]
fn on_a_new_stream_all_that_is_unresolved_is_sent_again_in_order_once_the_claim_is_answered() {
    let mut session = session(Some("p"));
    claimed(&mut session, 7, None);
    for sequence in 0..4 {
        add(&mut session, sequence);
    }
    sent(&mut session, NOW);
    session.effects();
    session.on_disconnected(&Error::Closed, NOW);
    assert_eq!(effects(&mut session), [""; 0], "nothing is given up");
    let claim = session.next_request(NOW);
    assert!(matches!(claim, Some(Request::Claim { partition: 0, last_epoch: Some(7) })));
    assert!(session.next_request(NOW).is_none(), "nothing is sent before the claim is answered");
    session.on_claimed(v1::PublishClaimed { epoch: 8, last_sequence: Some(1), ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), ["claimed Some(1)"]);
    let requests: Vec<Request> = std::iter::from_fn(|| session.next_request(NOW)).collect();
    let sequences: Vec<(u64, u64)> = requests
        .iter()
        .map(|request| match request {
            Request::Batch { epoch, batch, .. } => (*epoch, batch.first_sequence),
            Request::Claim { .. } => panic!("claimed"),
        })
        .collect();
    assert_eq!(sequences, [(8, 0), (8, 1), (8, 2), (8, 3)], "those that are stored too, to learn where");
    let Request::Batch { id, .. } = &requests[0] else { panic!("a batch") };
    let duplicate = v1::PublishReceipt { duplicate: true, ..stored(*id, 40) };
    session.on_receipt(duplicate, NOW);
    assert_eq!(effects(&mut session), ["0 at 40"]);
    // What is known to be stored can't fail any more.
    session.fail_all(|_| Error::Closed);
    assert_eq!(effects(&mut session), ["1 stored", "2 unknown", "3 unknown"]);
}

#[test]
fn d7_what_is_unresolved_when_the_producer_is_forgotten_is_reported_as_unknown() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    add(&mut session, 0);
    sent(&mut session, NOW);
    add(&mut session, 1);
    session.effects();
    session.on_disconnected(&Error::Closed, NOW);
    session.next_request(NOW);
    session.on_claimed(v1::PublishClaimed { epoch: 2, forgotten: true, ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), ["claimed None", "0 unknown", "1 behind", "broken Some(0)"]);
    add(&mut session, 0);
    assert_eq!(sent(&mut session, NOW).len(), 1, "it begins anew");
}

#[test]
fn what_is_refused_for_good_takes_what_is_behind_it_along_and_its_sequence_is_free_again() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    for sequence in 0..3 {
        add(&mut session, sequence);
    }
    let ids = sent(&mut session, NOW);
    session.effects();
    session.on_receipt(refused(ids[1].0, permanent()), NOW);
    assert_eq!(effects(&mut session), ["1 failed", "2 behind", "broken Some(1)"]);
    session.on_receipt(stored(ids[0].0, 0), NOW);
    assert_eq!(effects(&mut session), ["0 at 0"]);
    add(&mut session, 1);
    assert_eq!(sent(&mut session, NOW).len(), 1);
}

#[test]
fn d5_a_fenced_producer_ends_and_what_it_sent_is_refused() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    add(&mut session, 0);
    add(&mut session, 1);
    let ids = sent(&mut session, NOW);
    session.effects();
    let fenced = v1::Fault { code: 10, reason: "PRODUCER_FENCED".into(), ..Default::default() };
    session.on_receipt(refused(ids[0].0, fenced), NOW);
    assert_eq!(effects(&mut session), ["over"]);
    session.fail_all(|_| Error::Closed);
    assert_eq!(effects(&mut session), ["0 failed", "1 failed"]);
}

#[test]
fn an_unknown_outcome_is_settled_by_a_claim_on_a_new_stream() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    add(&mut session, 0);
    let ids = sent(&mut session, NOW);
    session.effects();
    session.on_receipt(refused(ids[0].0, unknown()), NOW);
    assert_eq!(effects(&mut session), ["reconnect"]);
    session.on_disconnected(&Error::Closed, NOW);
    session.next_request(NOW);
    session.on_claimed(v1::PublishClaimed { epoch: 2, last_sequence: Some(0), ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), ["claimed Some(0)"]);
    let again = sent(&mut session, LATER);
    session.on_receipt(v1::PublishReceipt { duplicate: true, ..stored(again[0].0, 9) }, LATER);
    assert_eq!(effects(&mut session), ["0 at 9"]);
}

#[test]
fn a_duplicate_whose_place_the_server_no_longer_knows_counts_as_stored() {
    for reason in STORED {
        let mut session = session(Some("p"));
        claimed(&mut session, 1, None);
        add(&mut session, 0);
        let ids = sent(&mut session, NOW);
        session.effects();
        let fault = v1::Fault { code: 6, reason: reason.into(), ..Default::default() };
        session.on_receipt(refused(ids[0].0, fault), NOW);
        assert_eq!(effects(&mut session), ["0 stored"]);
    }
}

#[test]
fn a_log_that_ends_before_what_had_receipts_is_reported_and_not_papered_over() {
    let mut session = session(Some("p"));
    claimed(&mut session, 1, None);
    add(&mut session, 0);
    let ids = sent(&mut session, NOW);
    session.on_receipt(stored(ids[0].0, 0), NOW);
    add(&mut session, 1);
    session.effects();
    session.on_disconnected(&Error::Closed, NOW);
    session.next_request(NOW);
    // Sequence 0 had a receipt, and is gone.
    session.on_claimed(v1::PublishClaimed { epoch: 2, last_sequence: None, ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), ["claimed None", "1 failed", "broken Some(0)"]);
}

#[test]
fn what_takes_too_long_is_given_up_and_what_was_sent_is_unknown() {
    let mut named = session(Some("p"));
    claimed(&mut named, 1, None);
    add(&mut named, 0);
    sent(&mut named, NOW);
    add(&mut named, 1);
    named.effects();
    named.on_tick(NOW.after(TIMEOUT));
    assert_eq!(effects(&mut named), ["0 unknown", "1 behind", "broken None", "reconnect"]);

    let mut unnamed = session(None);
    add(&mut unnamed, 0);
    unnamed.on_tick(NOW.after(TIMEOUT));
    assert_eq!(effects(&mut unnamed), ["0 failed"]);
}

#[test]
fn a_claim_that_can_not_be_served_yet_is_asked_for_again() {
    let mut session = session(Some("p"));
    session.want_claim(0, NOW);
    session.next_request(NOW);
    session.on_claimed(v1::PublishClaimed { fault: Some(busy()), ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), [""; 0]);
    assert!(session.next_request(NOW).is_none());
    let later = session.deadline(NOW).expect("it is not forgotten");
    assert!(matches!(session.next_request(later), Some(Request::Claim { .. })));
    let gone = v1::Fault { code: 5, reason: "TOPIC_NOT_FOUND".into(), ..Default::default() };
    session.on_claimed(v1::PublishClaimed { fault: Some(gone), ..Default::default() }, NOW);
    assert_eq!(effects(&mut session), ["unclaimed", "broken None"]);
}

//! Schedules of the writer.

use alluvium_ledger::call::{Event, Request};
use alluvium_ledger::writer::{AppendRefusal, Death, HandBack, Notice, WriterConfig};
use alluvium_types::bookie::Refusal;
use alluvium_types::checksum::Crc32c;
use alluvium_types::ledger::LedgerState;
use alluvium_types::replication::Replication;
use bytes::Bytes;

use crate::world::{CasGate, Driver, Gate, World, b, body, e, ledger, live, ms};

fn three() -> World {
    World::new(6, ledger(&[0, 1, 2], Replication::DEFAULT))
}

fn confirmed(notices: &[Notice]) -> Option<u64> {
    notices.iter().rev().find_map(|n| if let Notice::Confirmed { up_to } = n { Some(up_to.get()) } else { None })
}

fn death(notices: &[Notice]) -> Option<(&Death, Vec<u64>)> {
    match notices.last() {
        Some(Notice::Died { death, unresolved }) => Some((death, unresolved.iter().map(|e| e.get()).collect())),
        _ => None,
    }
}

#[test]
fn entries_are_confirmed_by_an_ack_quorum_and_go_on_to_the_whole_write_set() {
    let mut world = three();
    world.gate(2, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 3);
    assert_eq!(writer.lac(), Some(2));
    assert_eq!(writer.adds(2, 2), 1);
    assert!(writer.machine.bytes_held() > 0, "Q6: counted until the last copy is released");
    writer.release(&mut world, |_, _| true);
    assert_eq!(writer.machine.bytes_held(), 0);
}

#[test]
fn entries_are_striped_over_a_wider_ensemble() {
    let wide = Replication::new(5, 3, 2).unwrap();
    let mut world = World::new(5, ledger(&[0, 1, 2, 3, 4], wide));
    let mut writer = Driver::writer(&world, live(0..5));
    writer.append(&mut world, 10);
    assert_eq!(writer.lac(), Some(9));
    for entry in 0..10 {
        let holders: Vec<u64> = (0..5).filter(|number| world.at(*number).entries.contains_key(&e(entry))).collect();
        let mut expected = vec![entry % 5, (entry + 1) % 5, (entry + 2) % 5];
        expected.sort_unstable();
        assert_eq!(holders, expected, "entry {entry}");
    }
}

#[test]
fn the_lac_rides_on_adds_and_goes_alone_when_the_writer_idles() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 1);
    writer.append(&mut world, 1);
    assert_eq!(world.at(0).lac, Some(e(0)), "the second add carried it");
    writer.pass(&mut world, ms(1000));
    assert_eq!(world.at(0).lac, Some(e(1)));
    let alone = writer.sent.iter().filter(|(_, request)| matches!(request, Request::AdvanceLac(_))).count();
    assert_eq!(alone, 3, "once to each");
}

#[test]
fn an_entry_leads_once_it_and_every_earlier_one_is_on_some_disk() {
    let mut world = three();
    for number in 0..3 {
        world.gate(number, Gate::Hold);
    }
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 2);
    let second = |request: &Request| matches!(request, Request::Add(add) if add.entry == e(1));
    writer.release(&mut world, |to, request| *to == b(1) && second(request));
    assert!(writer.notices.is_empty());
    writer.release(&mut world, |to, request| *to == b(0) && !second(request));
    assert_eq!(writer.notices, [Notice::Led { up_to: e(1) }]);
}

#[test]
fn c12_a_change_without_outcome_freezes_confirmations_until_the_same_change_has_one() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    world.cas_gate = CasGate::Delay;
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 1);
    assert_eq!(writer.lac(), Some(0), "two of three have it");
    // The change is proposed for the next entry; its outcome is lost, and the old value stands.
    writer.append(&mut world, 2);
    writer.pass(&mut world, ms(2000));
    assert_eq!(writer.lac(), Some(0), "both have the entries, and nothing is confirmed");
    let nonces: Vec<_> = world.changes.iter().map(|(_, _, nonce)| *nonce).collect();
    assert!(nonces.len() > 2 && nonces.iter().all(|nonce| *nonce == nonces[0]), "the same change again and again");
    world.apply_delayed();
    world.cas_gate = CasGate::Pass;
    writer.pass(&mut world, ms(2000));
    assert_eq!(writer.lac(), Some(2));
    assert_eq!(world.metadata().fragments.len(), 2);
    assert_eq!(world.metadata().fragments[1].first, e(1));
    assert!(world.at(3).entries.contains_key(&e(2)), "the replacement has what the record says");
}

#[test]
fn c15_a_change_that_is_certainly_not_applied_does_not_freeze_confirmations() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    world.cas_gate = CasGate::Away;
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 1);
    writer.append(&mut world, 2);
    assert_eq!(writer.lac(), Some(2), "metadata is away, and two of the three that it names have all");
    writer.pass(&mut world, ms(5000));
    assert!((2..10).contains(&world.changes.len()), "{} changes: asked again, after a pause", world.changes.len());
    world.cas_gate = CasGate::Pass;
    writer.pass(&mut world, ms(2000));
    assert_eq!(world.metadata().fragments.len(), 2, "and made once metadata is back");
    // A close waits for metadata.
    world.cas_gate = CasGate::Away;
    writer.close(&mut world);
    writer.pass(&mut world, ms(2000));
    assert_eq!(world.metadata().closed_at(), None);
    world.cas_gate = CasGate::Pass;
    writer.pass(&mut world, ms(2000));
    assert_eq!(world.metadata().closed_at(), Some(Some(e(2))));
}

/// An attempt of which nothing is known, then one that is certainly not applied: the first may still be.
#[test]
fn c12_what_is_certain_of_the_last_attempt_is_not_certain_of_the_one_before() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    world.cas_gate = CasGate::Delay;
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 1);
    world.cas_gate = CasGate::Away;
    writer.append(&mut world, 2);
    writer.pass(&mut world, ms(5000));
    assert_eq!(writer.lac(), Some(0), "nothing is confirmed meanwhile");
    world.apply_delayed();
    world.cas_gate = CasGate::Pass;
    writer.pass(&mut world, ms(2000));
    assert_eq!(writer.lac(), Some(2));
    assert_eq!(world.metadata().fragments.len(), 2);
}

#[test]
fn c15_a_change_that_is_refused_for_good_ends_the_writer() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    world.cas_gate = CasGate::Refuse;
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 1);
    writer.pass(&mut world, ms(2000));
    assert!(matches!(writer.notices.last(), Some(Notice::Died { death: Death::RecordRefused, .. })), "{:?}", writer.notices);
    assert_eq!(world.changes.len(), 1, "it is not asked again");
}

/// The change's outcome is unknown; a read shows the old record; then the change is applied after all.
#[cfg(feature = "mutations")]
#[test]
fn planted_c12_a_read_taken_as_the_outcome_confirms_what_the_record_does_not_name() {
    use alluvium_ledger::mutation::{Mutation, Mutations};
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    world.cas_gate = CasGate::Delay;
    let mutations = Mutations::plant(Mutation::TimedOutCasResolvedByRead);
    let config = WriterConfig { mutations, ..WriterConfig::default() };
    let mut writer = Driver::writer_with(&world, live(0..4), config);
    writer.append(&mut world, 2);
    world.at(2).refuses = None;
    writer.pass(&mut world, ms(500));
    world.gate(0, Gate::Hold);
    writer.append(&mut world, 1);
    assert_eq!(writer.lac(), Some(2), "confirmed by bookies 1 and 2");
    world.apply_delayed();
    let named = &world.metadata().last_fragment().ensemble;
    let copies = named.iter().filter(|bookie| world.bookies[*bookie].entries.contains_key(&e(2))).count();
    assert!(copies < 2, "of the bookies that the record names, {copies} has the entry");
}

#[test]
fn c15_no_entry_is_confirmed_from_the_proposal_of_an_ensemble_to_its_commit() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 5);
    world.at(2).refuses = Some(Refusal::UnknownLedger);
    world.gate(0, Gate::Hold);
    world.cas_gate = CasGate::Delay;
    writer.append(&mut world, 1);
    // The proposal names entry 5 as the first of the new fragment; its ack quorum is complete only now.
    assert_eq!(world.changes.last().unwrap().1.last_fragment().first, e(5));
    writer.release(&mut world, |_, _| true);
    assert_eq!(writer.lac(), Some(4));
    world.apply_delayed();
    world.cas_gate = CasGate::Pass;
    world.gate(0, Gate::Pass);
    writer.pass(&mut world, ms(1000));
    assert_eq!(writer.lac(), Some(5));
}

#[test]
fn c16_a_new_member_gets_nothing_before_metadata_names_it() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::Stopping);
    world.gate(1, Gate::Hold);
    world.cas_gate = CasGate::Delay;
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 2);
    assert_eq!(writer.asked(3), 1, "C68: it was opened, and that is all");
    assert!(matches!(writer.sent.iter().find(|(to, _)| *to == b(3)), Some((_, Request::Open(_)))));
    assert_eq!(writer.lac(), None);
    world.apply_delayed();
    world.cas_gate = CasGate::Pass;
    writer.pass(&mut world, ms(100));
    assert_eq!((writer.adds(3, 0), writer.adds(3, 1)), (1, 1));
    assert_eq!(writer.lac(), Some(1));
}

#[test]
fn c18_every_change_compares_the_record_it_was_made_from() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 1);
    writer.close(&mut world);
    let expected: Vec<_> = world.changes.iter().map(|(expected, _, _)| expected.map(|r| r.get())).collect();
    assert_eq!(expected, [Some(1), Some(2)]);
}

#[test]
fn c19_a_fenced_writer_never_confirms_again_and_its_entries_are_unknown() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 1);
    world.gate(0, Gate::Hold);
    world.gate(1, Gate::Hold);
    world.at(2).fenced = Some(alluvium_types::ids::RecoveryNumber::new(1));
    writer.append(&mut world, 2);
    assert_eq!(death(&writer.notices), Some((&Death::Fenced, vec![1, 2])));
    writer.release(&mut world, |_, _| true);
    writer.pass(&mut world, ms(60_000));
    assert_eq!(confirmed(&writer.notices), Some(0), "L4");
    assert!(world.changes.is_empty(), "it is no fault of the bookie: no change of the ensemble");
    assert_eq!(writer.machine.append(writer.now, Bytes::new(), Crc32c::EMPTY), Err(AppendRefusal::Ended));
}

#[test]
fn l4_a_writer_that_lost_its_record_never_confirms_again() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::ReadOnly);
    let mut writer = Driver::writer(&world, live(0..4));
    // A recovery has claimed the ledger; its fences are still on their way.
    world.change((
        None,
        world.metadata().clone(),
        alluvium_types::ids::Nonce::new(alluvium_runtime::entropy::Entropy::seeded(9).uuid()),
    ));
    world.gate(1, Gate::Hold);
    writer.append(&mut world, 1);
    let (death, unresolved) = death(&writer.notices).expect("dead");
    assert!(matches!(death, Death::RecordLost(Some(_))));
    assert_eq!(unresolved, [0]);
    writer.release(&mut world, |_, _| true);
    assert_eq!(confirmed(&writer.notices), None);
}

#[test]
fn c36_too_large_is_permanent_and_never_a_bookies_fault() {
    let mut world = three();
    let config = WriterConfig { entry_bytes_max: 10, ..WriterConfig::default() };
    let mut writer = Driver::writer_with(&world, live(0..6), config);
    let big = Bytes::from_static(b"eleven long");
    let refused = writer.machine.append(writer.now, big, Crc32c::EMPTY);
    assert_eq!(refused, Err(AppendRefusal::TooLarge { bytes: 11, limit: 10 }));
    assert_eq!(writer.machine.next_entry(), e(0), "it got no id");

    // A bookie whose own limit is lower, by a mistake of configuration.
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 2);
    for number in 0..3 {
        world.at(number).refuses = Some(Refusal::TooLarge);
    }
    writer.append(&mut world, 2);
    let Some(Notice::Closed { record, hand_back: Some((why, entries)) }) = writer.notices.last() else { panic!("not closed") };
    assert_eq!(*why, HandBack::TooLarge { entry: e(2) });
    assert_eq!(record.metadata.state, LedgerState::Closed { last: Some(e(1)) });
    assert_eq!(entries.iter().map(|back| back.entry.get()).collect::<Vec<_>>(), [2, 3]);
    assert!(writer.suspects.is_empty());
    assert!(world.changes.iter().all(|(_, new, _)| new.fragments.len() == 1), "no ensemble was changed for it");
}

#[test]
fn c37_what_is_sent_again_is_the_very_body_that_was_appended() {
    let mut world = three();
    world.gate(2, Gate::Refuse);
    let mut writer = Driver::writer(&world, live(0..3));
    let body = Bytes::from(vec![7; 100]);
    writer.machine.append(writer.now, body.clone(), Crc32c::of(&body)).unwrap();
    writer.pass(&mut world, ms(500));
    assert!(writer.adds(2, 0) > 1, "sent again");
    for (_, request) in &writer.sent {
        if let Request::Add(add) = request {
            assert_eq!(add.body.as_ptr(), body.as_ptr(), "shared, not copied");
        }
    }
}

#[test]
fn c38_a_paused_writer_that_wakes_after_a_takeover_dies_on_the_fence() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 3);
    // The process stops; a successor recovers the ledger meanwhile.
    let mut recovery = Driver::recovery(live(0..6));
    recovery.run(&mut world);
    assert_eq!(world.metadata().closed_at(), Some(Some(e(2))));
    writer.now = writer.now.after(ms(3_600_000));
    writer.append(&mut world, 1);
    assert_eq!(death(&writer.notices), Some((&Death::Fenced, vec![3])));
    assert_eq!(confirmed(&writer.notices), Some(2));
    assert!(world.holes().is_empty());
}

#[test]
fn c54_a_slow_bookie_is_replaced_by_its_latency_and_avoided() {
    let mut world = three();
    world.gate(2, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..4));
    for _ in 0..15 {
        writer.append(&mut world, 1);
        writer.pass(&mut world, ms(100));
    }
    assert_eq!(writer.suspects, [b(2)]);
    assert_eq!(world.metadata().last_fragment().ensemble, [b(0), b(1), b(3)]);
    assert_eq!(world.metadata().fragments[0].short, [2], "C65: what it did not answer is marked");
    assert_eq!(writer.lac(), Some(14), "nothing waited for it");
}

#[test]
fn c54_a_pause_of_the_writers_own_process_is_no_bookies_fault() {
    let mut world = three();
    for number in 0..3 {
        world.gate(number, Gate::Hold);
    }
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 1);
    writer.now = writer.now.after(ms(30_000));
    writer.tell(&mut world, Event::Tick);
    assert!(writer.suspects.is_empty());
    writer.release(&mut world, |_, _| true);
    assert_eq!(writer.lac(), Some(0));
    assert!(world.changes.is_empty());
}

#[test]
fn c54_a_bookie_that_is_gone_is_replaced_soon_where_nothing_is_confirmed_without_it() {
    let two = Replication::new(2, 2, 2).unwrap();
    let mut world = World::new(3, ledger(&[0, 1], two));
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 3);
    world.gate(1, Gate::Refuse);
    writer.append(&mut world, 1);
    writer.pass(&mut world, ms(400));
    assert_eq!(world.metadata().last_fragment().ensemble, [b(0), b(2)]);
    assert_eq!(world.metadata().last_fragment().first, e(3));
    assert_eq!(writer.lac(), Some(3));
}

#[test]
fn c54_a_bookie_that_is_gone_keeps_its_place_where_it_is_not_missed() {
    let mut world = three();
    // Slowness is another matter.
    let config = WriterConfig { slow_after: ms(10_000), bad_after: ms(20_000), ..WriterConfig::default() };
    let mut writer = Driver::writer_with(&world, live(0..4), config);
    writer.append(&mut world, 3);
    world.gate(2, Gate::Refuse);
    writer.append(&mut world, 50);
    let asked = writer.asked(2);
    writer.pass(&mut world, ms(900));
    assert_eq!((writer.lac(), world.changes.len()), (Some(52), 0));
    assert!((1..=10).contains(&(writer.asked(2) - asked)), "one is sent again to see whether it is there, not all");
    world.gate(2, Gate::Pass);
    writer.pass(&mut world, ms(1_100));
    assert_eq!(world.at(2).entries.len(), 53, "then all of them");
}

#[test]
fn c54_one_add_that_got_lost_before_a_bookie_is_slow_is_no_sign_that_it_is_gone() {
    let two = Replication::new(2, 2, 2).unwrap();
    let mut world = World::new(3, ledger(&[0, 1], two));
    let mut writer = Driver::writer(&world, live(0..3));
    world.gate(1, Gate::Refuse);
    writer.append(&mut world, 1);
    world.gate(1, Gate::Hold);
    writer.pass(&mut world, ms(800));
    assert!(world.changes.is_empty() && writer.suspects.is_empty());
    writer.release(&mut world, |_, _| true);
    assert_eq!(writer.lac(), Some(0));
}

#[test]
fn a_busy_bookie_is_asked_again_and_stays() {
    let mut world = three();
    world.at(2).refuses = Some(Refusal::Busy);
    let mut writer = Driver::writer(&world, live(0..6));
    writer.append(&mut world, 2);
    writer.pass(&mut world, ms(300));
    assert!(writer.adds(2, 0) > 1);
    world.at(2).refuses = None;
    writer.pass(&mut world, ms(700));
    assert_eq!(world.at(2).entries.len(), 2);
    assert!(world.changes.is_empty());
}

#[test]
fn q6_a_slow_bookie_costs_a_bounded_number_of_bytes_and_is_marked_short() {
    let mut world = three();
    world.gate(2, Gate::Swallow);
    let config = WriterConfig { background_bytes_max: 1000, ..WriterConfig::default() };
    let mut writer = Driver::writer_with(&world, live(0..3), config);
    for _ in 0..500 {
        writer.append(&mut world, 1);
        assert!(writer.machine.bytes_held() <= 1000 + 40, "{} bytes", writer.machine.bytes_held());
    }
    assert_eq!(writer.lac(), Some(499));
    assert!(writer.cancelled > 400, "what it owed was given up");
    writer.pass(&mut world, ms(4_000));
    assert_eq!(world.metadata().last_fragment().short, [2], "C65: marked before the fragment ends");
    assert!(world.metadata().is_under_replicated());
    writer.close(&mut world);
    writer.pass(&mut world, ms(1000));
    assert_eq!(world.metadata().state, LedgerState::Closed { last: Some(e(499)) });
    assert_eq!(world.metadata().last_fragment().short, [2]);
    assert!(world.holes().is_empty());
}

#[test]
fn c63_without_a_spare_the_fragment_stays_while_an_ack_quorum_answers() {
    let mut world = three();
    world.gate(2, Gate::Refuse);
    let mut writer = Driver::writer(&world, live(0..3));
    for _ in 0..100 {
        writer.append(&mut world, 1);
        writer.pass(&mut world, ms(100));
    }
    assert_eq!(writer.lac(), Some(99));
    assert_eq!(world.metadata().fragments.len(), 1);
    // It comes back, and begins anew where it stood: the fragment that it lacks a part of is over.
    world.gate(2, Gate::Pass);
    writer.pass(&mut world, ms(3_000));
    writer.append(&mut world, 1);
    assert!(world.at(2).entries.contains_key(&e(100)));
}

#[test]
fn c63_with_too_few_answering_it_closes_at_the_last_confirmed_entry_and_hands_the_rest_back() {
    let wide = Replication::new(5, 3, 2).unwrap();
    let mut world = World::new(5, ledger(&[0, 1, 2, 3, 4], wide));
    let mut writer = Driver::writer(&world, live(0..5));
    writer.append(&mut world, 5);
    // Two neighbours die. There is no spare, but the three others could hold a ledger of their own.
    world.gate(3, Gate::Refuse);
    world.gate(4, Gate::Refuse);
    writer.append(&mut world, 5);
    assert_eq!(writer.lac(), Some(6), "entry 7 is for bookies 2, 3 and 4");
    writer.pass(&mut world, ms(10_000));
    let Some(Notice::Closed { record, hand_back: Some((why, entries)) }) = writer.notices.last() else { panic!("not closed") };
    assert_eq!(record.metadata.state, LedgerState::Closed { last: Some(e(6)) });
    assert_eq!(*why, HandBack::NoSpare);
    assert_eq!(entries.iter().map(|back| back.entry.get()).collect::<Vec<_>>(), [7, 8, 9]);
    assert!(entries.iter().all(|back| back.body == body(back.entry)));
    assert_eq!(confirmed(&writer.notices), Some(6));
    assert_eq!(record.metadata.last_fragment().short, [3], "C65: of the confirmed ones, 4 lacks none");
    assert!(world.holes().is_empty());
}

#[test]
fn c63_a_writer_whose_entries_would_have_nowhere_to_go_waits_for_a_bookie() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 5);
    world.gate(1, Gate::Refuse);
    world.gate(2, Gate::Refuse);
    writer.append(&mut world, 2);
    writer.pass(&mut world, ms(60_000));
    assert_eq!(writer.lac(), Some(4));
    assert!(
        writer.notices.iter().all(|notice| matches!(notice, Notice::Led { .. } | Notice::Confirmed { .. } | Notice::Changed(_)))
    );
    writer.tell(&mut world, Event::Bookies(live(0..4)));
    writer.pass(&mut world, ms(5_000));
    assert_eq!(writer.lac(), Some(6));
    assert_eq!(world.metadata().last_fragment().first, e(5));
}

#[test]
fn c65_a_close_waits_a_moment_for_the_last_copies_and_marks_who_lacks_them() {
    for late in [false, true] {
        let mut world = three();
        world.gate(2, Gate::Hold);
        let mut writer = Driver::writer(&world, live(0..3));
        writer.append(&mut world, 2);
        writer.close(&mut world);
        assert!(world.changes.is_empty(), "it lingers");
        if late {
            writer.pass(&mut world, ms(1000));
        } else {
            writer.release(&mut world, |_, _| true);
        }
        assert_eq!(world.metadata().state, LedgerState::Closed { last: Some(e(1)) });
        let expected: &[usize] = if late { &[2] } else { &[] };
        assert_eq!(world.metadata().last_fragment().short, expected);
    }
}

#[test]
fn c65_a_member_that_was_late_when_its_fragment_ended_is_unmarked_if_it_catches_up() {
    let mut world = three();
    world.gate(1, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..4));
    writer.append(&mut world, 2);
    assert_eq!(writer.lac(), Some(1));
    world.at(2).refuses = Some(Refusal::ReadOnly);
    writer.append(&mut world, 1);
    assert_eq!(world.metadata().fragments[0].short, [1], "it has not answered yet");
    world.gate(1, Gate::Pass);
    writer.release(&mut world, |_, _| true);
    writer.close(&mut world);
    writer.pass(&mut world, ms(1000));
    assert_eq!(world.metadata().fragments.len(), 2);
    assert!(!world.metadata().is_under_replicated(), "{:?}", world.metadata());
    assert!(world.holes().is_empty());
}

#[test]
fn a_close_confirms_what_was_taken_before() {
    let mut world = three();
    world.gate(0, Gate::Hold);
    world.gate(1, Gate::Hold);
    let mut writer = Driver::writer(&world, live(0..3));
    writer.append(&mut world, 3);
    writer.close(&mut world);
    assert_eq!(writer.machine.append(writer.now, Bytes::new(), Crc32c::EMPTY), Err(AppendRefusal::Ended));
    assert!(world.changes.is_empty());
    writer.release(&mut world, |_, _| true);
    assert!(matches!(writer.notices.last(), Some(Notice::Closed { hand_back: None, .. })));
    assert_eq!(world.metadata().state, LedgerState::Closed { last: Some(e(2)) });
}

#[test]
fn an_empty_ledger_closes_empty() {
    let mut world = three();
    let mut writer = Driver::writer(&world, live(0..3));
    writer.close(&mut world);
    assert_eq!(world.metadata().state, LedgerState::Closed { last: None });
}

//! How well a cluster is: plain rules over what is known of it, so that every client says the same.

use std::collections::BTreeMap;
use std::fmt::Display;

use alluvium_metadata::auditor::Audit;
use alluvium_metadata::bookies::LiveBookie;
use alluvium_metadata::brokers::Broker;
use alluvium_proto::v1::{Finding, Health};
use alluvium_types::names::{BookieName, BrokerName};
use alluvium_types::replication::Replication;

/// What is known.
pub(super) struct Facts<'a> {
    /// Whether metadata answers.
    pub(super) metadata: bool,
    /// Brokers that live.
    pub(super) brokers: &'a BTreeMap<BrokerName, Broker>,
    /// Bookies that live.
    pub(super) bookies: &'a BTreeMap<BookieName, LiveBookie>,
    /// Bookies that are known and don't live.
    pub(super) absent: &'a [BookieName],
    /// What the auditor found last.
    pub(super) audit: Option<Audit>,
    /// What ledgers are to have, where nobody says otherwise.
    pub(super) replication: Replication,
}

/// All that is not well.
pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |health: Health, reason: &str, text: String| {
        found.push(Finding { health: health.into(), reason: reason.to_owned(), text });
    };
    if !facts.metadata {
        let text = "metadata does not answer: what is open is served on, nothing can be opened, and deliveries to subscriptions \
                    pause; see that etcd runs and can be reached from the brokers";
        say(Health::Down, "METADATA_UNAVAILABLE", text.to_owned());
    }
    if facts.brokers.is_empty() {
        say(Health::Down, "NO_BROKERS", "no broker is registered: nothing can be claimed; see the brokers' logs".to_owned());
    } else if facts.brokers.values().all(|broker| broker.draining) {
        let text = "every broker is being drained: partitions have nowhere to go; undo one drain, or start another broker";
        say(Health::Degraded, "ALL_DRAINING", text.to_owned());
    }
    let full: Vec<&BookieName> = facts.bookies.iter().filter(|(_, b)| !b.info.writable).map(|(name, _)| name).collect();
    let writable = facts.bookies.len() - full.len();
    let (ensemble, ack) = (facts.replication.ensemble(), facts.replication.ack());
    if writable < ack {
        let text = format!("{writable} bookies take messages, and each needs {ack}: start bookies, or give them space");
        say(Health::Down, "STORAGE_UNAVAILABLE", text);
    } else if writable < ensemble {
        let text = format!("{writable} bookies take messages, fewer than the {ensemble} that new ledgers are to have");
        say(Health::Degraded, "FEW_BOOKIES", text);
    }
    if !full.is_empty() {
        let text = format!("{} takes no messages: its disks are full or failed; see its log", names(&full));
        say(Health::Degraded, "BOOKIES_READ_ONLY", text);
    }
    if !facts.absent.is_empty() {
        let text = format!("{} is known and not alive; start it again", names(facts.absent));
        say(Health::Degraded, "BOOKIES_AWAY", text);
    }
    if let Some(audit) = facts.audit {
        if audit.under_replicated > 0 {
            let text =
                format!("{} ledgers are short of copies; `ledger list --under-replicated` says which", audit.under_replicated);
            say(Health::Degraded, "LEDGERS_UNDER_REPLICATED", text);
        }
        if audit.on_absent_bookies > 0 {
            let text = format!(
                "{} ledgers have copies on bookies that were not alive; `ledger list --under-replicated` says which",
                audit.on_absent_bookies
            );
            say(Health::Degraded, "LEDGERS_ON_ABSENT_BOOKIES", text);
        }
    }
    found
}

/// The worst of them.
pub(super) fn verdict(findings: &[Finding]) -> Health {
    if findings.iter().any(|finding| finding.health() == Health::Down) {
        Health::Down
    } else if findings.is_empty() {
        Health::Healthy
    } else {
        Health::Degraded
    }
}

/// The first few names, and how many more there are.
fn names(all: &[impl Display]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use alluvium_metadata::bookies::BookieInfo;
    use alluvium_types::ids::{Incarnation, SessionId};
    use alluvium_types::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn bookies(writable: &[bool]) -> BTreeMap<BookieName, LiveBookie> {
        let one = |(number, writable): (usize, &bool)| {
            let info = BookieInfo { zone: None, address: String::new(), writable: *writable, total_bytes: 9, available_bytes: 1 };
            let id = Uuid::from_u128(number as u128);
            let live = LiveBookie { incarnation: Incarnation::new(id), session: SessionId::new(id), info };
            (BookieName::parse(&format!("b{number}")).expect("valid"), live)
        };
        writable.iter().enumerate().map(one).collect()
    }

    fn brokers(draining: &[bool]) -> BTreeMap<BrokerName, Broker> {
        let one = |(number, draining): (usize, &bool)| {
            let broker = Broker {
                session: SessionId::new(Uuid::from_u128(number as u128)),
                address: String::new(),
                internal_address: String::new(),
                weight: 100,
                draining: *draining,
                since: Timestamp::from_millis(1),
            };
            (BrokerName::parse(&format!("broker-{number}")).expect("valid"), broker)
        };
        draining.iter().enumerate().map(one).collect()
    }

    #[test]
    fn what_is_not_served_is_down_and_what_somebody_should_see_is_degraded() {
        let audit = |under_replicated, on_absent_bookies| {
            Some(Audit { finished: Timestamp::from_millis(1), ledgers: 9, under_replicated, on_absent_bookies })
        };
        let away = [BookieName::parse("b7").expect("valid")];
        let (two, leaving) = (brokers(&[false, true]), brokers(&[true, true]));
        let none = BTreeMap::new();
        let check = |expected: (Health, &[&str]), writable: &[bool], change: &dyn Fn(&mut Facts<'_>)| {
            let bookies = bookies(writable);
            let mut facts = Facts {
                metadata: true,
                brokers: &two,
                bookies: &bookies,
                absent: &[],
                audit: audit(0, 0),
                replication: Replication::DEFAULT,
            };
            change(&mut facts);
            let found = findings(&facts);
            let reasons: Vec<&str> = found.iter().map(|finding| finding.reason.as_str()).collect();
            assert_eq!((verdict(&found), &reasons[..]), expected);
        };
        let well = [true; 3];
        check((Health::Healthy, &[]), &well, &|_| {});
        check((Health::Healthy, &[]), &well, &|facts| facts.audit = None);
        check((Health::Down, &["METADATA_UNAVAILABLE"]), &well, &|facts| facts.metadata = false);
        check((Health::Degraded, &["FEW_BOOKIES", "BOOKIES_READ_ONLY"]), &[true, true, false], &|_| {});
        check((Health::Down, &["STORAGE_UNAVAILABLE", "BOOKIES_READ_ONLY"]), &[true, false, false], &|_| {});
        check((Health::Down, &["STORAGE_UNAVAILABLE"]), &[], &|_| {});
        let ledgers: &[&str] = &["LEDGERS_UNDER_REPLICATED", "LEDGERS_ON_ABSENT_BOOKIES"];
        check((Health::Degraded, ledgers), &well, &|facts| facts.audit = audit(2, 3));
        let gone: BTreeMap<_, _> = none;
        for (expected, brokers) in [((Health::Degraded, "ALL_DRAINING"), &leaving), ((Health::Down, "NO_BROKERS"), &gone)] {
            let bookies = bookies(&well);
            let replication = Replication::DEFAULT;
            let facts = Facts { metadata: true, brokers, bookies: &bookies, absent: &away, audit: None, replication };
            let found = findings(&facts);
            assert_eq!(
                (verdict(&found), found[0].reason.as_str(), found[1].reason.as_str()),
                (expected.0, expected.1, "BOOKIES_AWAY")
            );
        }
    }
}

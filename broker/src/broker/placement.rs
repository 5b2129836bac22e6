//! Which broker a partition prefers: the one that every broker computes alike from who is alive. A preference, never a right:
//! what it leads to is a claim, and that compares (M1).
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar, 1998, with the logarithmic weights of Schindelhauer and Schomaker,
//! 2005): each broker draws a number for the partition, the highest has it. When a broker comes or goes, only the partitions
//! that it gains or loses move, and brokers own in proportion to their weights.

use std::collections::BTreeMap;

use alluvium_metadata::PartitionId;
use alluvium_metadata::brokers::Broker;
use alluvium_types::ids::SessionId;
use alluvium_types::names::BrokerName;

/// The broker that shall own the partition: the one that was `placed` if it takes partitions, else the one that the hash
/// prefers. Brokers whose session is in `without` are left out. `None` when nobody is left.
pub(super) fn preferred<'a>(
    partition: PartitionId,
    placed: Option<&BrokerName>,
    live: &'a BTreeMap<BrokerName, Broker>,
    without: &[SessionId],
) -> Option<(&'a BrokerName, &'a Broker)> {
    let reachable = || live.iter().filter(|(_, broker)| !without.contains(&broker.session));
    let takes = |broker: &Broker| !broker.draining;
    if let Some(found) = placed.and_then(|name| reachable().find(|(live, broker)| *live == name && takes(broker))) {
        return Some(found);
    }
    let of_choice = |weighs: bool| {
        let drawn = reachable().filter(|(_, broker)| takes(broker) && (broker.weight > 0) == weighs);
        drawn.max_by(|(a, one), (b, other)| draw(partition, a, one.weight).total_cmp(&draw(partition, b, other.weight)))
    };
    // Who weighs nothing, and who is leaving, serves rather than nobody.
    of_choice(true).or_else(|| of_choice(false)).or_else(|| reachable().next())
}

/// The number that a broker draws: `weight / -ln(u)`, where `u` is uniform in (0, 1) by the hash.
fn draw(partition: PartitionId, broker: &BrokerName, weight: u32) -> f64 {
    let mut hash = Fnv::default();
    hash.write(partition.topic.get().as_bytes());
    hash.write(&partition.index.get().to_le_bytes());
    hash.write(broker.as_str().as_bytes());
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    let uniform = ((hash.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(weight.max(1)) / -uniform.ln()
}

/// FNV-1a with the finalizer of splitmix64: the same everywhere and for ever, as brokers of several versions must agree.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    const fn finish(&self) -> u64 {
        let mut z = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use alluvium_types::ids::{PartitionIndex, TopicId};
    use alluvium_types::time::Timestamp;

    use super::*;

    fn broker(session: u128, weight: u32) -> Broker {
        Broker {
            session: SessionId::new(uuid::Uuid::from_u128(session)),
            address: String::new(),
            internal_address: String::new(),
            weight,
            draining: false,
            since: Timestamp::default(),
        }
    }

    fn brokers(weights: &[u32]) -> BTreeMap<BrokerName, Broker> {
        let name = |n: usize| BrokerName::parse(&format!("broker-{n}")).expect("valid");
        (0..).zip(weights).map(|(n, weight)| (name(n), broker(n as u128 + 1, *weight))).collect()
    }

    fn partition(number: u32) -> PartitionId {
        PartitionId {
            topic: TopicId::new(uuid::Uuid::from_u128(u128::from(number / 16))),
            index: PartitionIndex::new(number % 16),
        }
    }

    fn owner(live: &BTreeMap<BrokerName, Broker>, number: u32) -> &str {
        preferred(partition(number), None, live, &[]).expect("somebody").0.as_str()
    }

    #[test]
    fn brokers_are_preferred_in_proportion_to_their_weights() {
        let live = brokers(&[100, 100, 200, 0]);
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for number in 0..20_000 {
            *counts.entry(owner(&live, number)).or_default() += 1;
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["broker-0", "broker-1", "broker-2"]);
        for (name, expected) in [("broker-0", 5_000), ("broker-1", 5_000), ("broker-2", 10_000)] {
            assert!(counts[name].abs_diff(expected) < 300, "{counts:?}");
        }
    }

    #[test]
    fn only_what_a_broker_gains_or_loses_moves() {
        let (three, mut four) = (brokers(&[100, 100, 100]), brokers(&[100, 100, 100, 100]));
        let moved = (0..5_000).filter(|n| owner(&three, *n) != owner(&four, *n));
        let mut count = 0;
        for number in moved {
            assert_eq!(owner(&four, number), "broker-3");
            count += 1;
        }
        assert!((1_000..1_500).contains(&count), "{count}");
        four.retain(|name, _| name.as_str() != "broker-3");
        assert!((0..5_000).all(|n| owner(&three, n) == owner(&four, n)));
    }

    #[test]
    fn the_choice_is_the_same_for_ever() {
        let live = brokers(&[100, 100, 100]);
        let chosen: Vec<&str> = (0..8).map(|n| owner(&live, n)).collect();
        assert_eq!(chosen, CHOSEN);
    }

    const CHOSEN: [&str; 8] = ["broker-1", "broker-0", "broker-1", "broker-2", "broker-1", "broker-2", "broker-0", "broker-1"];

    #[test]
    fn what_was_placed_goes_first_and_who_leaves_goes_last() {
        let mut live = brokers(&[100, 100, 100]);
        let to = BrokerName::parse("broker-1").expect("valid");
        let by_hash = (0..).find(|n| owner(&live, *n) == "broker-0").expect("some");
        let find = |live: &BTreeMap<BrokerName, Broker>, placed: Option<&BrokerName>, without: &[SessionId]| {
            preferred(partition(by_hash), placed, live, without).map(|(name, _)| name.to_string())
        };
        assert_eq!(find(&live, Some(&to), &[]).as_deref(), Some("broker-1"));
        let sessions: Vec<SessionId> = live.values().map(|b| b.session).collect();
        assert_eq!(find(&live, Some(&to), &sessions[1..2]).as_deref(), Some("broker-0"), "who can't be reached is none");
        live.get_mut(&to).expect("there").draining = true;
        assert_eq!(find(&live, Some(&to), &[]).as_deref(), Some("broker-0"), "nothing is placed on who leaves");
        for broker in live.values_mut() {
            broker.draining = true;
        }
        assert!(find(&live, None, &[]).is_some(), "who leaves serves rather than nobody");
        assert_eq!(find(&live, None, &sessions), None);
    }
}

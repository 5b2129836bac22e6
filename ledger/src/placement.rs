//! Which bookies a ledger is put on: live, writable ones, spread over zones, with free space preferred and suspects avoided.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium_runtime::entropy::Entropy;
use alluvium_types::ledger::{BookieId, LedgerClass};
use alluvium_types::replication::Replication;

/// A bookie that has a live session, as placement sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which bookie.
    pub bookie: BookieId,
    /// Where it stands: what fails together has one zone.
    pub zone: Arc<str>,
    /// Whether it takes bulk ledgers. One that doesn't still takes essential ones, from its reserve (C61).
    pub writable: bool,
    /// Bytes free for ledgers.
    pub free_bytes: u64,
    /// Whether somebody in this process found it slow or failing a short while ago (C54).
    pub suspect: bool,
}

impl Candidate {
    const fn takes(&self, class: LedgerClass) -> bool {
        self.writable || matches!(class, LedgerClass::Essential)
    }
}

/// An ensemble, and what it could not keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// What it is built with: as wanted, or smaller where too few bookies live (C63).
    pub replication: Replication,
    /// The bookies, in striping order.
    pub ensemble: Vec<BookieId>,
    /// Whether some write set has two members in one zone although more zones were wished for.
    pub zones_shared: bool,
}

/// Why nothing could be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{live} live bookies take this ledger, {needed} are needed")]
pub struct TooFewBookies {
    /// How many would take it.
    pub live: usize,
    /// How many it needs at least: the ack quorum.
    pub needed: usize,
}

/// Chooses an ensemble for a new ledger: as wanted if there are enough bookies, else the largest that is at least `Qa` (C63).
/// Those in `avoid` are never chosen; suspects only where fewer than `Qa` others live (C68).
pub fn place(
    candidates: &[Candidate],
    class: LedgerClass,
    wanted: Replication,
    avoid: &[BookieId],
    entropy: &Entropy,
) -> Result<Placement, TooFewBookies> {
    let takers = || candidates.iter().filter(|c| c.takes(class) && !avoid.contains(&c.bookie));
    let sound: Vec<&Candidate> = takers().filter(|c| !c.suspect).collect();
    let pool = if sound.len() >= wanted.ack() { sound } else { takers().collect() };
    let replication = degrade(wanted, pool.len()).ok_or(TooFewBookies { live: pool.len(), needed: wanted.ack() })?;
    let mut ensemble: Vec<&Candidate> = Vec::with_capacity(replication.ensemble());
    while ensemble.len() < replication.ensemble() {
        // Neighbours in striping order share write sets: a member differs in zone from those before it, and at the end of the
        // round from the first ones.
        let near = neighbours(ensemble.len(), replication);
        let zones: Vec<&str> = near.filter_map(|index| ensemble.get(index).map(|c| &*c.zone)).collect();
        let next = best(pool.iter().copied().filter(|c| !ensemble.iter().any(|m| m.bookie == c.bookie)), &zones, entropy)
            .expect("the pool is as large as the ensemble");
        ensemble.push(next);
    }
    let ensemble: Vec<BookieId> = ensemble.into_iter().map(|c| c.bookie.clone()).collect();
    let zones_shared = zones_shared(candidates, replication, &ensemble);
    Ok(Placement { replication, ensemble, zones_shared })
}

/// Whether some write set has two members that are known to stand in one zone.
pub(crate) fn zones_shared(candidates: &[Candidate], replication: Replication, ensemble: &[BookieId]) -> bool {
    replication.write_sets().any(|set| {
        let mut seen: Vec<&str> = set.iter().filter_map(|&index| zone_of(candidates, &ensemble[index])).collect();
        seen.sort_unstable();
        seen.windows(2).any(|pair| pair[0] == pair[1])
    })
}

fn zone_of<'a>(candidates: &'a [Candidate], bookie: &BookieId) -> Option<&'a str> {
    candidates.iter().find(|c| c.bookie == *bookie).map(|c| &*c.zone)
}

/// Whom to take where there is a choice to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Better nobody than a suspect.
    Wish,
    /// Better a suspect than nobody.
    Must,
}

/// Chooses a bookie to stand at `index` of `ensemble`: no other member, nor another life of one (B11), and none of `avoid`; `None`
/// if there is no spare. The one that stands there now may be chosen: it begins anew in the next fragment.
pub fn replace(
    candidates: &[Candidate],
    class: LedgerClass,
    replication: Replication,
    ensemble: &[BookieId],
    index: usize,
    avoid: &[BookieId],
    need: Need,
    entropy: &Entropy,
) -> Option<BookieId> {
    let near = neighbours(index, replication).filter_map(|near| ensemble.get(near));
    let zones: Vec<&str> = near.filter_map(|bookie| zone_of(candidates, bookie)).collect();
    let others = || ensemble.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, member)| member);
    // Two lives of one directory share all that can fail.
    let spares =
        candidates.iter().filter(|c| c.takes(class) && !avoid.contains(&c.bookie) && others().all(|m| m.name != c.bookie.name));
    let (suspects, sound): (Vec<&Candidate>, Vec<&Candidate>) = spares.partition(|c| c.suspect);
    let last_resort = if need == Need::Must { suspects } else { Vec::new() };
    let chosen = best(sound.into_iter(), &zones, entropy).or_else(|| best(last_resort.into_iter(), &zones, entropy));
    chosen.map(|c| c.bookie.clone())
}

/// The largest replication with `members` bookies that keeps the ack quorum (C63); `None` if they are fewer than it.
pub fn degrade(wanted: Replication, members: usize) -> Option<Replication> {
    let ensemble = wanted.ensemble().min(members);
    Replication::new(ensemble, wanted.write().min(ensemble), wanted.ack()).ok()
}

/// The other indices that share a write set with `index`.
fn neighbours(index: usize, replication: Replication) -> impl Iterator<Item = usize> {
    let (size, reach) = (replication.ensemble(), replication.write() - 1);
    (1..=reach).flat_map(move |step| [(index + step) % size, (index + size - step % size) % size]).filter(move |&i| i != index)
}

/// The best of `pool`: in a zone not yet near, then by chance weighted with free space, so that many brokers who see the same
/// view do not all choose the same one.
fn best<'a>(pool: impl Iterator<Item = &'a Candidate>, near: &[&str], entropy: &Entropy) -> Option<&'a Candidate> {
    let mut by_sharing: BTreeMap<usize, Vec<&'a Candidate>> = BTreeMap::new();
    for candidate in pool {
        let sharing = near.iter().filter(|zone| **zone == &*candidate.zone).count();
        by_sharing.entry(sharing).or_default().push(candidate);
    }
    let (_, choices) = by_sharing.into_iter().next()?;
    // In units that keep the sum of 64 disks of any size within 64 bits.
    let weight = |c: &Candidate| (c.free_bytes >> 20).clamp(1, 1 << 40);
    let total: u64 = choices.iter().map(|c| weight(c)).sum();
    let mut point = entropy.below(total);
    for choice in &choices {
        match point.checked_sub(weight(choice)) {
            Some(rest) => point = rest,
            None => return Some(choice),
        }
    }
    choices.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bookie, candidates, zoned};

    fn wanted(e: usize, w: usize, a: usize) -> Replication {
        Replication::new(e, w, a).expect("valid")
    }

    #[test]
    fn members_of_a_write_set_stand_in_different_zones_where_there_are_enough() {
        for seed in 0..200 {
            let pool = zoned(&[(0, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "c")]);
            let placed =
                place(&pool, LedgerClass::Bulk, Replication::DEFAULT, &[], &Entropy::seeded(seed)).expect("enough bookies");
            assert_eq!(placed.ensemble.len(), 3);
            assert!(!placed.zones_shared, "seed {seed}: {:?}", placed.ensemble);
        }
    }

    #[test]
    fn a_shared_zone_is_said() {
        let pool = zoned(&[(0, "a"), (1, "a"), (2, "b")]);
        let placed = place(&pool, LedgerClass::Bulk, Replication::DEFAULT, &[], &Entropy::seeded(1)).expect("enough");
        assert!(placed.zones_shared);
    }

    #[test]
    fn c63_with_too_few_bookies_the_ensemble_is_smaller_but_never_below_the_ack_quorum() {
        let place_on = |count| place(&candidates(count), LedgerClass::Bulk, wanted(5, 3, 2), &[], &Entropy::seeded(1));
        assert_eq!(place_on(6).map(|p| p.replication), Ok(wanted(5, 3, 2)));
        assert_eq!(place_on(4).map(|p| p.replication), Ok(wanted(4, 3, 2)));
        assert_eq!(place_on(2).map(|p| p.replication), Ok(wanted(2, 2, 2)));
        assert_eq!(place_on(1), Err(TooFewBookies { live: 1, needed: 2 }));
    }

    #[test]
    fn suspects_are_used_only_where_too_few_others_live() {
        let mut pool = candidates(3);
        pool[0].suspect = true;
        let placed = place(&pool, LedgerClass::Bulk, Replication::DEFAULT, &[], &Entropy::seeded(1)).expect("two are sound");
        assert_eq!(placed.replication, wanted(2, 2, 2));
        pool[1].suspect = true;
        let placed = place(&pool, LedgerClass::Bulk, Replication::DEFAULT, &[], &Entropy::seeded(1)).expect("all are needed");
        assert_eq!(placed.replication, Replication::DEFAULT);
    }

    #[test]
    fn a_read_only_bookie_takes_essential_ledgers_alone() {
        let mut pool = candidates(2);
        pool[0].writable = false;
        let two = wanted(2, 2, 2);
        assert!(place(&pool, LedgerClass::Bulk, two, &[], &Entropy::seeded(1)).is_err());
        assert!(place(&pool, LedgerClass::Essential, two, &[], &Entropy::seeded(1)).is_ok());
    }

    #[test]
    fn a_replacement_is_new_sound_and_in_another_zone() {
        let mut pool = zoned(&[(0, "a"), (1, "b"), (2, "c"), (3, "a"), (4, "c"), (5, "c")]);
        pool[5].suspect = true;
        let ensemble = [bookie(0), bookie(1), bookie(2)];
        let at_2 = |avoid: &[BookieId], need| {
            replace(&pool, LedgerClass::Bulk, Replication::DEFAULT, &ensemble, 2, avoid, need, &Entropy::seeded(3))
        };
        assert_eq!(at_2(&[bookie(2)], Need::Wish), Some(bookie(4)));
        assert_eq!(at_2(&[bookie(2), bookie(4)], Need::Must), Some(bookie(3)));
        let all_sound = [bookie(2), bookie(3), bookie(4)];
        assert_eq!(at_2(&all_sound, Need::Wish), None);
        assert_eq!(at_2(&all_sound, Need::Must), Some(bookie(5)), "better a suspect than nobody");
    }

    #[test]
    fn b11_another_life_of_a_member_is_no_spare_for_another_place() {
        // The directory of bookie 0 was wiped; its next life has registered.
        let mut pool = candidates(3);
        pool[0].bookie.incarnation = bookie(9).incarnation;
        let reborn = pool[0].bookie.clone();
        let ensemble = [bookie(0), bookie(1), bookie(2)];
        let at = |place, avoid: &[BookieId]| {
            let r = Replication::DEFAULT;
            replace(&pool, LedgerClass::Bulk, r, &ensemble, place, avoid, Need::Must, &Entropy::seeded(3))
        };
        assert_eq!(at(1, &[bookie(1)]), None);
        assert_eq!(at(0, &[bookie(0)]), Some(reborn), "but it may take its own former place");
    }

    #[test]
    fn room_is_preferred_without_starving_the_rest() {
        let mut pool = candidates(2);
        pool[0].free_bytes = 9 << 30;
        pool[1].free_bytes = 1 << 30;
        let entropy = Entropy::seeded(5);
        let first = (0..1000)
            .filter(|_| {
                let placed = place(&pool, LedgerClass::Bulk, Replication::SINGLE, &[], &entropy).expect("two live");
                placed.ensemble[0] == bookie(0)
            })
            .count();
        assert!((850..950).contains(&first), "{first} of 1000");
    }
}

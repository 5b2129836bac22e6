//! The configuration that a seed draws for its own run (swarm testing): what is large in one run is absent from the next.

use std::time::Duration;

use alluvium_types::replication::Replication;

use crate::dice::Dice;
use crate::network::Weather;

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What ledgers are created with.
    pub replication: Replication,
    /// Bookies in the world.
    pub bookies: usize,
    /// Ledgers of the log: the next one is begun when the one before is closed.
    pub ledgers: usize,
    /// Entries that the client wants in each ledger.
    pub appends: usize,
    /// The mean time between two appends.
    pub append_gap: Duration,
    /// Appends in flight at a time.
    pub window: usize,
    /// The smallest and the largest body.
    pub body_bytes: (usize, usize),
    /// How the network behaves.
    pub weather: Weather,
    /// The shortest and the longest time that a group takes to be on disk.
    pub disk_time: (Duration, Duration),
    /// The shortest and the longest time a message to or from metadata takes.
    pub metadata_time: (Duration, Duration),
    /// How likely metadata's answer is lost after the commit.
    pub metadata_lost: f64,
    /// How likely a change reaches metadata long after it was sent.
    pub metadata_late: f64,
    /// When faults end.
    pub fault_phase: Duration,
    /// Bytes of a bookie's log file.
    pub log_file_bytes: usize,
    /// Whether bookies write through the page cache and sync, or directly.
    pub buffered: bool,
    /// Whether the writer closes its ledger when it has written everything.
    pub writer_closes: bool,
    /// Readers that follow the log while it is written.
    pub readers: usize,
    /// Recoveries at once of each ledger that is still open when the faults have ended.
    pub closers: usize,
    /// How long the machines wait for a bookie before they think the worse of it; other patience follows from it.
    pub pace: Duration,
    /// Bytes that one bookie may owe of confirmed entries, and that a recovery has on its way.
    pub background_bytes: usize,
    /// Entries that a recovery asks for at a time.
    pub recovery_window: u64,
    /// The mean time between two rounds of a bookie's housekeeping.
    pub tidy_every: Duration,
    /// Whether a ledger is deleted once the next one is closed.
    pub deletes: bool,
    /// Whether somebody mostly takes over when a writer is gone.
    pub takeovers: bool,
    /// Whether all power goes once more before what was promised is read.
    pub final_crash: bool,
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Shape {
    /// Draws a shape.
    pub fn draw(dice: &mut Dice) -> Self {
        let (e, w, a) = match dice.below(100) {
            0..64 => (3, 3, 2),
            64..76 => (5, 3, 2),
            76..84 => (4, 3, 2),
            84..88 => (3, 2, 2),
            88..92 => (4, 2, 2),
            92..96 => (5, 5, 3),
            96..98 => (3, 3, 3),
            _ => (3, 2, 1),
        };
        let replication = Replication::new(e, w, a).expect("the table holds valid ones");
        let slow = dice.chance(0.3);
        let slow_disk = dice.chance(0.3);
        // Where a round trip is long, more has to be under way.
        let window = if slow || slow_disk { dice.pick(&[8, 16, 32, 64]) } else { dice.pick(&[1, 2, 4, 8, 16, 32]) };
        // Calm, ordinary and rough networks. A drop breaks a connection, so where much is under way it takes much with it.
        let roughest = if window > 4 { 0.03 } else { 0.08 };
        let drop = match dice.below(4) {
            0 => 0.0,
            1 => 0.005 * dice.unit(),
            2 => 0.02 * dice.unit(),
            _ => roughest * dice.unit(),
        };
        let weather = Weather {
            drop,
            delay_min: Duration::from_micros(50 + dice.below(300)),
            delay_max: if slow { millis(5 + dice.below(40)) } else { millis(1 + dice.below(6)) },
            stall: if dice.chance(0.5) { 0.03 * dice.unit() } else { 0.0 },
            stall_max: millis(50 + dice.below(900)),
        };
        let disk_max = if slow_disk { millis(5 + dice.below(60)) } else { millis(1 + dice.below(4)) };
        let rough_metadata = dice.chance(0.5);
        let body_max = dice.pick(&[64, 200, 1000, 5000]);
        Self {
            replication,
            // Mostly with spares, sometimes with none.
            bookies: if dice.chance(0.15) { dice.between(e, e + 1) } else { dice.between(e.max(4) + 1, 7) },
            ledgers: dice.pick(&[1, 2, 2, 3, 3, 4]),
            appends: dice.between(35, 90),
            append_gap: Duration::from_micros(2000 + dice.below(16_000)),
            window,
            body_bytes: (dice.between(1, 40), body_max),
            weather,
            disk_time: (Duration::from_micros(100 + dice.below(500)), disk_max),
            metadata_time: (Duration::from_micros(300), millis(2 + dice.below(25))),
            metadata_lost: if rough_metadata { 0.25 * dice.unit() } else { 0.0 },
            metadata_late: if rough_metadata { 0.15 * dice.unit() } else { 0.0 },
            fault_phase: millis(1500 + dice.below(2500)),
            log_file_bytes: dice.pick(&[80 << 10, 128 << 10, 256 << 10]),
            buffered: dice.chance(0.3),
            writer_closes: dice.chance(0.3),
            readers: dice.index(3),
            closers: dice.between(1, 3),
            // Longer than a round trip takes in fair weather.
            pace: 2 * (2 * weather.delay_max + disk_max) + millis(20 + dice.below(80)),
            background_bytes: dice.pick(&[2000, 8000, 1 << 20]),
            recovery_window: dice.pick(&[2, 5, 16, 64]),
            tidy_every: millis(40 + dice.below(400)),
            deletes: dice.chance(0.5),
            takeovers: true,
            final_crash: dice.chance(0.5),
        }
    }

    /// A calm world for schedules written by hand: nothing happens that the schedule doesn't say.
    pub fn calm() -> Self {
        Self {
            replication: Replication::DEFAULT,
            bookies: 5,
            ledgers: 1,
            appends: 0,
            append_gap: millis(5),
            window: 64,
            body_bytes: (16, 64),
            weather: Weather {
                drop: 0.0,
                delay_min: Duration::from_micros(200),
                delay_max: millis(2),
                stall: 0.0,
                stall_max: Duration::ZERO,
            },
            disk_time: (Duration::from_micros(200), millis(1)),
            metadata_time: (Duration::from_micros(300), millis(2)),
            metadata_lost: 0.0,
            metadata_late: 0.0,
            fault_phase: Duration::from_secs(3600),
            log_file_bytes: 128 << 10,
            buffered: false,
            writer_closes: false,
            readers: 0,
            closers: 1,
            pace: millis(60),
            background_bytes: 1 << 20,
            recovery_window: 16,
            tidy_every: millis(100),
            deletes: false,
            takeovers: false,
            final_crash: false,
        }
    }
}

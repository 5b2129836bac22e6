//! A run of the brokers, drawn from its seed before it begins: how large the cluster is, how its network behaves, what goes wrong
//! and when.

use std::time::Duration;

use alluvium_types::time::Mono;

use crate::dice::Dice;

/// Streams of chance. What is drawn from one leaves the others alone.
pub(super) mod stream {
    pub(crate) const SHAPE: u64 = 101;
    pub(crate) const FAULTS: u64 = 102;
    pub(crate) const TURNS: u64 = 103;
    pub(crate) const DISKS: u64 = 104;
    pub(crate) const NETWORK: u64 = 105;
    pub(crate) const METADATA: u64 = 106;
    pub(crate) const CLIENTS: u64 = 107;
    pub(crate) const BROKERS: u64 = 108;
}

/// How long things go wrong.
const FAULTY: Duration = Duration::from_millis(3500);
/// The longest pause of a producer between two batches lies between these.
const GAP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(600));

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// What the cluster is like.
    pub shape: Shape,
    /// What goes wrong, in order of time.
    pub items: Vec<Planned>,
}

/// A cluster and its load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Brokers.
    pub brokers: usize,
    /// Bookies.
    pub bookies: usize,
    /// Ensemble, write quorum, ack quorum.
    pub replication: (u8, u8, u8),
    /// Partitions of the topic.
    pub partitions: u32,
    /// Idempotent producers of each partition.
    pub producers: usize,
    /// Batches of each of them.
    pub batches: u64,
    /// The longest pause between two of them.
    pub gap: Duration,
    /// Times of a message between two processes.
    pub hop: (Duration, Duration),
    /// A connection to a bookie breaks once in so many messages; 0: never.
    pub breaks_once_in: u64,
    /// A message to or from metadata is lost once in so many; 0: never.
    pub lost_once_in: u64,
    /// A client that connects goes to any broker, not to the one that it is told, once in so many times; 0: never.
    pub astray_once_in: u64,
    /// Whether bookies' disks sync by a call of their own.
    pub buffered: bool,
    /// Whether ledgers roll while the run lasts.
    pub rolls: bool,
    /// A producer sends a batch before the one that comes first, once in so many times; 0: never.
    pub skips_once_in: u64,
    /// A snapshot goes into a state ledger after so many changes.
    pub snapshot_entries: u64,
    /// About how large its entries become.
    pub state_entry_bytes: usize,
}

/// Which broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The one that clients are told then.
    Favourite,
    /// This one.
    Number(usize),
}

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// A broker is gone at once, and starts again later.
    Kill {
        /// Which.
        broker: Target,
        /// How long it is away.
        away: Duration,
        /// Whether its clients hear of it: they are told at once, or find out.
        told: bool,
    },
    /// A broker does not run for a while, and its clients go elsewhere when they have waited enough.
    Pause {
        /// Which.
        broker: Target,
        /// For how long.
        span: Duration,
    },
    /// A broker stops in an orderly way, and starts again later.
    Drain {
        /// Which.
        broker: Target,
        /// How long it is away.
        away: Duration,
    },
    /// Clients are told another broker from now on; those that are connected stay until something moves them.
    Favour {
        /// Which.
        broker: Target,
    },
    /// A broker and a bookie don't reach each other.
    Cut {
        /// The broker.
        broker: Target,
        /// The bookie.
        bookie: usize,
        /// For how long.
        span: Duration,
    },
    /// A broker does not reach metadata.
    Isolate {
        /// The broker.
        broker: Target,
        /// For how long.
        span: Duration,
    },
    /// A bookie crashes, and starts again.
    Crash {
        /// Which.
        bookie: usize,
        /// How long it is away.
        away: Duration,
        /// Whether its machine loses power: what was not synced is gone.
        power: bool,
    },
}

/// An item and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When.
    pub at: Mono,
    /// What.
    pub item: Item,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let shape = Shape::draw(&mut Dice::new(seed, stream::SHAPE));
        let mut dice = Dice::new(seed, stream::FAULTS);
        let count = dice.between(3, 7);
        let mut items: Vec<Planned> = (0..count)
            .map(|_| {
                // An odd nanosecond: nothing else happens then, so that what is under way is under way as a whole.
                let at = dice.time(Duration::from_millis(200), FAULTY) + Duration::from_nanos(1);
                Planned { at: Mono::from_duration(at), item: Item::draw(&mut dice, &shape) }
            })
            .collect();
        items.sort_by_key(|planned| planned.at);
        Self { seed, shape, items }
    }
}

impl Shape {
    fn draw(dice: &mut Dice) -> Self {
        let (bookies, replication) =
            dice.pick(&[(3, (3, 3, 2)), (3, (3, 3, 2)), (4, (3, 3, 2)), (3, (2, 2, 1)), (4, (3, 2, 2)), (1, (1, 1, 1))]);
        let slow = dice.pick(&[1, 1, 5, 20]);
        Self {
            brokers: dice.between(2, 3),
            bookies,
            replication,
            partitions: dice.pick(&[1, 1, 1, 2]),
            producers: dice.pick(&[1, 1, 2]),
            batches: dice.between(8, 16) as u64,
            gap: dice.time(GAP.0, GAP.1),
            hop: (Duration::from_micros(100), Duration::from_millis(slow)),
            breaks_once_in: dice.pick(&[0, 200, 60]),
            lost_once_in: dice.pick(&[0, 50, 15]),
            astray_once_in: dice.pick(&[0, 10, 4]),
            buffered: dice.chance(0.5),
            rolls: dice.chance(0.5),
            skips_once_in: dice.pick(&[0, 0, 12]),
            snapshot_entries: dice.pick(&[2, 5, 64]),
            state_entry_bytes: dice.pick(&[64, 64, 1 << 18]),
        }
    }
}

impl Item {
    fn draw(dice: &mut Dice, shape: &Shape) -> Self {
        let number = Target::Number(dice.index(shape.brokers));
        let broker = if dice.chance(0.5) { Target::Favourite } else { number };
        let bookie = dice.index(shape.bookies);
        let span = dice.time(Duration::from_millis(50), Duration::from_millis(2500));
        match dice.below(20) {
            0..4 => Self::Kill { broker, away: span, told: dice.chance(0.7) },
            4..9 => Self::Pause { broker, span },
            9..11 => Self::Drain { broker, away: span },
            11..14 => Self::Favour { broker: number },
            14..16 => Self::Cut { broker, bookie, span },
            16..18 => Self::Isolate { broker, span },
            _ => Self::Crash { bookie, away: span / 2, power: dice.chance(0.5) },
        }
    }
}

//! The bookies, and the connections that brokers have to them: each in order, and broken as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alluvium_ledger::call::{Answer, Request};
use alluvium_runtime::clock::Clock;
use alluvium_runtime::disk::SyncMode;
use alluvium_runtime::entropy::Entropy;
use alluvium_runtime::tasks::{OnFailure, Tasks};
use alluvium_types::ids::LedgerId;
use alluvium_types::ledger::BookieId;
use alluvium_types::names::BookieName;
use alluvium_types::time::Mono;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::plan::{Plan, stream};
use crate::bookie::{Arrived, Bookie, End, Outgoing};
use crate::bug::Bug;
use crate::dice::Dice;

/// How long a group is on its way to the disk.
const WRITE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(4));
/// After how long a connection that carries nothing is known to be broken.
const NOTICED: Duration = Duration::from_millis(150);
/// After how long an idle log seals its end.
const IDLE: Duration = Duration::from_millis(20);
/// Bytes of a log file: enough that a run fills few.
const LOG_FILE_BYTES: usize = 256 << 10;

/// A broker and a bookie.
type Link = (usize, usize);

/// All bookies of a run.
pub(super) struct Bookies {
    pub(super) clock: Clock,
    tasks: Tasks,
    hop: (Duration, Duration),
    breaks_once_in: u64,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    hosts: Vec<Host>,
    links: BTreeMap<Link, LinkState>,
    is_healed: bool,
}

/// Who asked, and how it hears.
#[derive(Clone)]
pub(super) struct Asker {
    link: Link,
    connection: u64,
    reply: Reply,
}

/// A bookie of this world.
pub(super) type Host = Bookie<Asker>;

/// Told once.
type Reply = Arc<Mutex<Option<oneshot::Sender<Answer>>>>;

#[derive(Default)]
struct LinkState {
    /// Which connection there is: another one after each break.
    connection: u64,
    /// From which connection on requests that are under way arrive.
    arrives_from: u64,
    cut_until: Mono,
    /// The last arrivals, there and back.
    there: Mono,
    back: Mono,
    open: Vec<Reply>,
}

impl Bookies {
    /// Starts them, with empty disks.
    pub(super) fn start(plan: &Plan, clock: Clock, tasks: Tasks, bug: Option<Bug>) -> Arc<Self> {
        let mut disks = Dice::new(plan.seed, stream::DISKS);
        let mode = if plan.shape.buffered { SyncMode::Buffered } else { SyncMode::Direct };
        let hosts = (0..plan.shape.bookies).map(|n| {
            let name = BookieName::parse(&format!("b{n}")).expect("a valid name");
            let mut host = Bookie::new(name, mode, LOG_FILE_BYTES, Bug::in_bookie(bug), Entropy::seeded(disks.bits()));
            host.start(None);
            host
        });
        let (dice, links) = (Dice::new(plan.seed, stream::NETWORK), BTreeMap::new());
        let state = Mutex::new(State { dice, hosts: hosts.collect(), links, is_healed: false });
        Arc::new(Self { clock, tasks, hop: plan.shape.hop, breaks_once_in: plan.shape.breaks_once_in, state })
    }

    /// Who they are; all are up when it is asked.
    pub(super) fn ids(&self) -> Vec<BookieId> {
        self.state.lock().hosts.iter().filter_map(|host| host.id().cloned()).collect()
    }

    /// Which bookie this is; `None` when another incarnation runs there now (B11), or none.
    fn slot(state: &State, id: &BookieId) -> Option<usize> {
        state.hosts.iter().position(|host| host.id() == Some(id))
    }

    /// Nothing goes wrong from now on, but what is told to.
    pub(super) fn heal(&self) {
        let mut state = self.state.lock();
        state.is_healed = true;
        state.links.values_mut().for_each(|link| link.cut_until = Mono::default());
    }

    /// A broker and a bookie don't reach each other for a while.
    pub(super) fn cut(self: &Arc<Self>, link: Link, span: Duration) {
        let until = self.clock.mono().after(span);
        self.state.lock().links.entry(link).or_default().cut_until = until;
        self.break_link(link);
    }

    /// All connections of a broker end, as its process does.
    pub(super) fn gone(self: &Arc<Self>, broker: usize) {
        let bookies = self.state.lock().hosts.len();
        (0..bookies).for_each(|bookie| self.break_link((broker, bookie)));
    }

    /// A bookie ends in the middle of things.
    pub(super) fn crash(self: &Arc<Self>, bookie: usize, power: bool) {
        {
            let mut state = self.state.lock();
            let calls = 1 + state.dice.below(4);
            state.hosts[bookie].crash(calls, if power { End::PowerCut } else { End::Kill });
        }
        let links: Vec<Link> = self.state.lock().links.keys().filter(|link| link.1 == bookie).copied().collect();
        links.into_iter().for_each(|link| self.break_link(link));
    }

    /// It starts again, if it does not run. Whether it asks for a bound on the ids of ledgers.
    pub(super) fn restart(&self, bookie: usize) -> bool {
        let mut state = self.state.lock();
        let host = &mut state.hosts[bookie];
        if !host.is_up() {
            host.start(None);
        }
        host.needs_bound()
    }

    /// Ledgers created from now on have ids of `next` or more.
    pub(super) fn bound_doubts(self: &Arc<Self>, bookie: usize, next: LedgerId) {
        self.state.lock().hosts[bookie].bound_doubts(next);
        self.settle(bookie);
    }

    /// Sends a request; it takes its place among those of its broker now. The answer, or `Lost`.
    pub(super) fn ask(self: &Arc<Self>, broker: usize, to: &BookieId, request: Request) -> oneshot::Receiver<Answer> {
        let (tx, rx) = oneshot::channel();
        let reply: Reply = Arc::new(Mutex::new(Some(tx)));
        let now = self.clock.mono();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(bookie) = Self::slot(state, to) else {
            drop(guard);
            self.later(now.after(NOTICED), move |_| tell(&reply, Answer::Lost));
            return rx;
        };
        let hop = state.dice.time(self.hop.0, self.hop.1);
        let breaks = !state.is_healed && self.breaks_once_in > 0 && state.dice.below(self.breaks_once_in) == 0;
        let link = state.links.entry((broker, bookie)).or_default();
        if now < link.cut_until {
            drop(guard);
            self.later(now.after(NOTICED), move |_| tell(&reply, Answer::Lost));
            return rx;
        }
        link.there = link.there.max(now.after(hop)).after(Duration::from_nanos(1));
        let at = link.there;
        link.open.retain(|open| open.lock().is_some());
        link.open.push(Arc::clone(&reply));
        let asker = Asker { link: (broker, bookie), connection: link.connection, reply };
        drop(guard);
        self.later(at, move |bookies| bookies.arrive(Arrived { from: asker, request }));
        if breaks {
            self.break_link((broker, bookie));
        }
        rx
    }

    /// What a look at a bookie shows, there and back; `None` when it is not reached.
    pub(super) async fn look<T>(self: &Arc<Self>, broker: usize, to: &BookieId, look: impl FnOnce(&mut Host) -> T) -> Option<T> {
        let hops = {
            let mut state = self.state.lock();
            (state.dice.time(self.hop.0, self.hop.1), state.dice.time(self.hop.0, self.hop.1))
        };
        self.clock.sleep(hops.0).await;
        let seen = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let bookie = Self::slot(state, to)
                .filter(|bookie| state.links.get(&(broker, *bookie)).is_none_or(|link| self.clock.mono() >= link.cut_until));
            bookie.map(|bookie| look(&mut state.hosts[bookie]))
        };
        self.clock.sleep(hops.1).await;
        seen
    }

    fn arrive(self: &Arc<Self>, arrived: Arrived<Asker>) {
        let (broker, bookie) = arrived.from.link;
        {
            let mut state = self.state.lock();
            let connection = arrived.from.connection;
            if state.links.get(&(broker, bookie)).is_some_and(|link| connection < link.arrives_from) {
                return;
            }
            state.hosts[bookie].ask(arrived);
        }
        self.settle(bookie);
    }

    /// Sends what the bookie has to say, and moves its groups to the disk.
    fn settle(self: &Arc<Self>, bookie: usize) {
        let now = self.clock.mono();
        loop {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let host = &mut state.hosts[bookie];
            if let Some(Outgoing { to, answer }) = host.poll_answer() {
                let hop = state.dice.time(self.hop.0, self.hop.1);
                let link = state.links.entry(to.from.link).or_default();
                link.back = link.back.max(now.after(hop)).after(Duration::from_nanos(1));
                let at = link.back;
                drop(guard);
                self.later(at, move |bookies| bookies.hear(&to.from, answer));
                continue;
            }
            let boot = host.boot;
            if host.begin() {
                let at = now.after(state.dice.time(WRITE.0, WRITE.1));
                drop(guard);
                self.later(at, move |bookies| bookies.written(bookie, boot));
            } else if host.wants_idle_mark() {
                drop(guard);
                self.later(now.after(IDLE), move |bookies| bookies.idle(bookie, boot));
            }
            return;
        }
    }

    fn written(self: &Arc<Self>, bookie: usize, boot: u64) {
        {
            let mut state = self.state.lock();
            let host = &mut state.hosts[bookie];
            if host.boot != boot || !host.is_up() {
                return;
            }
            host.complete();
        }
        self.settle(bookie);
    }

    fn idle(self: &Arc<Self>, bookie: usize, boot: u64) {
        {
            let mut state = self.state.lock();
            let host = &mut state.hosts[bookie];
            if host.boot != boot || !host.wants_idle_mark() {
                return;
            }
            host.mark_idle();
        }
        self.settle(bookie);
    }

    fn hear(&self, asker: &Asker, answer: Answer) {
        let state = self.state.lock();
        if state.links.get(&asker.link).is_none_or(|link| link.connection == asker.connection) {
            drop(state);
            tell(&asker.reply, answer);
        }
    }

    /// The connection ends: who waits is told so, and what is under way may still arrive.
    fn break_link(self: &Arc<Self>, link: Link) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let arrives = state.dice.chance(0.5);
        let broken = state.links.entry(link).or_default();
        broken.connection += 1;
        if !arrives {
            broken.arrives_from = broken.connection;
        }
        let open = std::mem::take(&mut broken.open);
        drop(guard);
        if !open.is_empty() {
            let at = self.clock.mono().after(self.hop.1);
            self.later(at, move |_| open.iter().for_each(|reply| tell(reply, Answer::Lost)));
        }
    }

    fn later(self: &Arc<Self>, at: Mono, happens: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let bookies = Arc::clone(self);
        self.tasks.spawn("network", OnFailure::Log, async move {
            bookies.clock.sleep_until(at).await;
            happens(&bookies);
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

fn tell(reply: &Reply, answer: Answer) {
    if let Some(waiting) = reply.lock().take() {
        // Who no longer waits has gone.
        let _ = waiting.send(answer);
    }
}

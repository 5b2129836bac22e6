//! The one thread, and who runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use alluvium_types::time::Timestamp;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::task::unconstrained;

use super::time::VirtualTime;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::tasks::Tasks;

/// What [`Simulation::run`] itself runs.
const MAIN: TaskId = 0;

type TaskId = u64;
type ProcessId = usize;

/// A cheap handle to a simulation.
#[derive(Clone)]
pub struct Simulation(Arc<Inner>);

struct Inner {
    time: VirtualTime,
    entropy: Entropy,
    ready: Arc<Ready>,
    room: Mutex<Room>,
}

/// Who can go on.
#[derive(Default)]
struct Ready(Mutex<Line>);

struct Line {
    tasks: BTreeSet<TaskId>,
    /// A hash of who was woken, who was picked, and when time passed, in order.
    course: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self { tasks: BTreeSet::new(), course: 0xCBF2_9CE4_8422_2325 }
    }
}

impl Line {
    /// FNV-1a, a word at a time.
    const fn note(&mut self, word: u64) {
        self.course = (self.course ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    }

    fn join(&mut self, task: TaskId) {
        self.tasks.insert(task);
        self.note(task << 1);
    }

    fn leave(&mut self, task: TaskId) {
        self.tasks.remove(&task);
        self.note(task << 1 | 1);
    }
}

#[derive(Default)]
struct Room {
    processes: Vec<State>,
    tasks: BTreeMap<TaskId, Task>,
    last_task: TaskId,
    steps: u64,
    panics: Vec<String>,
}

struct Task {
    process: ProcessId,
    waker: Waker,
    /// Lent to whoever runs it.
    future: Option<BoxFuture<'static, ()>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Running,
    /// Its tasks that could go on.
    Paused(BTreeSet<TaskId>),
    Gone,
}

struct TaskWaker {
    task: TaskId,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.0.lock().join(self.task);
    }
}

impl Simulation {
    /// An empty one. `entropy` decides who goes first.
    pub fn new(entropy: Entropy) -> Self {
        let (time, ready) = (VirtualTime::default(), Arc::default());
        Self(Arc::new(Inner { time, entropy, ready, room: Mutex::default() }))
    }

    /// A clock of this simulation whose wall reading starts at `wall`: wall readings may differ, the monotonic one is shared.
    pub fn clock(&self, wall: Timestamp) -> Clock {
        Clock::simulated(self.0.time.clone(), wall)
    }

    /// A process without tasks.
    pub fn process(&self) -> Process {
        let mut room = self.0.room.lock();
        room.processes.push(State::Running);
        Process { simulation: self.clone(), id: room.processes.len() - 1 }
    }

    /// How often a task was given its turn.
    pub fn steps(&self) -> u64 {
        self.0.room.lock().steps
    }

    /// The order in which tasks were woken and had their turns, as a number: two runs that did the same have the same.
    pub fn course(&self) -> u64 {
        self.0.ready.0.lock().course
    }

    /// What tasks said when they panicked.
    pub fn panics(&self) -> Vec<String> {
        self.0.room.lock().panics.clone()
    }

    pub(crate) fn panicked(&self, said: String) {
        self.0.room.lock().panics.push(said);
    }

    /// Runs `main` and all processes until `main` is done; `None` when it isn't within `limit`, or when nobody can ever go on.
    /// What is left of the processes is gone then.
    ///
    /// # Panics
    /// When `main` does, or when the system gives no runtime.
    pub fn run<F: Future>(&self, limit: Duration, main: F) -> Option<F::Output> {
        self.runtime().block_on(unconstrained(async {
            let output = self.go_on(limit, main);
            let processes = self.0.room.lock().processes.len();
            (0..processes).for_each(|id| self.kill(id));
            output
        }))
    }

    /// Nothing runs there: it is for code that asks for the present runtime, and for tokio's own randomness, which is drawn from the
    /// simulation's so.
    fn runtime(&self) -> Runtime {
        let mut builder = Builder::new_current_thread();
        // Without the switch, which .cargo/config.toml sets, a seed does not give one run: those who rely on it refuse to be built.
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&self.0.entropy.below(u64::MAX).to_be_bytes()));
        builder.build().expect("a runtime without drivers needs nothing")
    }

    /// Runs whoever can go on, one at a time, until `main` is done.
    fn go_on<F: Future>(&self, limit: Duration, main: F) -> Option<F::Output> {
        let until = self.0.time.now().after(limit);
        let mut main = pin!(main);
        let waker = self.waker(MAIN);
        waker.wake_by_ref();
        loop {
            match self.pick() {
                Some(MAIN) => {
                    self.0.room.lock().steps += 1;
                    if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return Some(output);
                    }
                }
                Some(task) => self.turn(task),
                None if self.0.time.next().is_some_and(|next| next <= until) => {
                    self.0.time.advance();
                    let now = self.0.time.now().as_duration().as_micros();
                    self.0.ready.0.lock().note(u64::try_from(now).unwrap_or(u64::MAX));
                }
                None => return None,
            }
        }
    }

    fn waker(&self, task: TaskId) -> Waker {
        Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&self.0.ready) }))
    }

    /// One of those that can go on.
    fn pick(&self) -> Option<TaskId> {
        let mut ready = self.0.ready.0.lock();
        let nth = match ready.tasks.len() {
            0 => return None,
            1 => 0,
            more => usize::try_from(self.0.entropy.below(more as u64)).unwrap_or_default(),
        };
        let task = *ready.tasks.iter().nth(nth)?;
        ready.leave(task);
        Some(task)
    }

    fn turn(&self, id: TaskId) {
        let (mut future, waker) = {
            let mut room = self.0.room.lock();
            // One that is over may still be woken.
            let Some(process) = room.tasks.get(&id).map(|task| task.process) else { return };
            match &mut room.processes[process] {
                State::Running => {}
                State::Paused(held) => {
                    held.insert(id);
                    return;
                }
                State::Gone => return,
            }
            room.steps += 1;
            let task = room.tasks.get_mut(&id).expect("it was there a moment ago");
            (task.future.take().expect("one task has its turn at a time"), task.waker.clone())
        };
        let pending = future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        let mut room = self.0.room.lock();
        match room.tasks.get_mut(&id) {
            Some(task) if pending => task.future = Some(future),
            Some(_) => {
                room.tasks.remove(&id);
                drop(room);
                drop(future);
            }
            // It killed its own process.
            None => {
                drop(room);
                drop(future);
            }
        }
    }

    fn spawn(&self, process: ProcessId, future: BoxFuture<'static, ()>) {
        let mut room = self.0.room.lock();
        if room.processes[process] == State::Gone {
            drop(room);
            return drop(future);
        }
        room.last_task += 1;
        let task = room.last_task;
        room.tasks.insert(task, Task { process, waker: self.waker(task), future: Some(future) });
        self.0.ready.0.lock().join(task);
    }

    fn kill(&self, process: ProcessId) {
        let gone: Vec<Task> = {
            let mut room = self.0.room.lock();
            room.processes[process] = State::Gone;
            let ids: Vec<TaskId> = room.tasks.iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| room.tasks.remove(id)).collect()
        };
        // What they hold may wake others as it goes.
        drop(gone);
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Simulation({:?})", self.0.time.now())
    }
}

/// Tasks that are paused and die together.
#[derive(Clone, Debug)]
pub struct Process {
    simulation: Simulation,
    id: ProcessId,
}

impl Process {
    /// Where its tasks begin.
    pub fn tasks(&self) -> Tasks {
        Tasks::simulated(self.clone())
    }

    /// None of its tasks runs until [`Process::wake`]; its time passes.
    pub fn pause(&self) {
        let mut room = self.simulation.0.room.lock();
        if room.processes[self.id] == State::Running {
            room.processes[self.id] = State::Paused(BTreeSet::new());
        }
    }

    /// Its tasks run again.
    pub fn wake(&self) {
        let mut room = self.simulation.0.room.lock();
        if let State::Paused(held) = &mut room.processes[self.id] {
            let mut ready = self.simulation.0.ready.0.lock();
            std::mem::take(held).into_iter().for_each(|task| ready.join(task));
            drop(ready);
            room.processes[self.id] = State::Running;
        }
    }

    /// It is gone at once, without a goodbye. Not to be called by one of its own tasks.
    pub fn kill(&self) {
        self.simulation.kill(self.id);
    }

    /// Whether its tasks may run, now or once it is woken.
    pub fn is_alive(&self) -> bool {
        self.simulation.0.room.lock().processes[self.id] != State::Gone
    }

    /// Starts a future as a task of its own.
    pub(crate) fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.simulation.spawn(self.id, future);
    }

    pub(crate) const fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    /// A clock for waits that nobody labels.
    pub(crate) fn clock(&self) -> Clock {
        self.simulation.clock(Timestamp::default())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use alluvium_types::time::Mono;

    use super::*;
    use crate::tasks::OnFailure;

    const LONG: Duration = Duration::from_secs(3600);

    fn ticker(process: &Process, clock: &Clock, name: &'static str, said: &Arc<Mutex<Vec<(&'static str, Mono)>>>) {
        let (clock, said) = (clock.clone(), Arc::clone(said));
        process.tasks().spawn(name, OnFailure::Log, async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
                said.lock().push((name, clock.mono()));
            }
            #[expect(unreachable_code, reason = "it names the type")]
            Ok::<(), Infallible>(())
        });
    }

    fn story(seed: u64) -> Vec<(&'static str, Mono)> {
        let simulation = Simulation::new(Entropy::seeded(seed));
        let clock = simulation.clock(Timestamp::default());
        let (one, other) = (simulation.process(), simulation.process());
        let said = Arc::default();
        ticker(&one, &clock, "one", &said);
        ticker(&other, &clock, "other", &said);
        let done = simulation.run(LONG, async {
            clock.sleep(Duration::from_millis(2500)).await;
            one.pause();
            clock.sleep(Duration::from_millis(2500)).await;
            one.wake();
            clock.sleep(Duration::from_millis(2)).await;
            other.kill();
            clock.sleep(Duration::from_secs(2)).await;
        });
        assert!(done.is_some());
        Arc::try_unwrap(said).map_or_else(|said| said.lock().clone(), Mutex::into_inner)
    }

    #[test]
    fn a_paused_process_goes_on_where_it_stood_and_a_killed_one_does_not() {
        let said = story(1);
        let times =
            |who| said.iter().filter(|(name, _)| *name == who).map(|(_, at)| at.as_duration().as_millis()).collect::<Vec<_>>();
        assert_eq!(times("one"), [1000, 2000, 5000, 6000, 7000]);
        assert_eq!(times("other"), [1000, 2000, 3000, 4000, 5000]);
    }

    #[test]
    fn a_seed_replays_and_seeds_differ_in_who_goes_first() {
        assert_eq!(story(7), story(7));
        assert!((0..20).any(|seed| story(seed) != story(7)));
    }

    #[cfg(tokio_unstable)]
    /// Waiters that tokio wakes in an order of its own.
    fn course_of_many_waiters(seed: u64) -> u64 {
        let simulation = Simulation::new(Entropy::seeded(seed));
        let process = simulation.process();
        let (told, hears) = tokio::sync::watch::channel(0);
        for _ in 0..20 {
            let mut hears = hears.clone();
            process.tasks().spawn("waiter", OnFailure::Log, async move { hears.changed().await });
        }
        let clock = simulation.clock(Timestamp::default());
        simulation.run(LONG, async {
            clock.sleep(Duration::from_secs(1)).await;
            told.send_replace(1);
            clock.sleep(Duration::from_secs(1)).await;
        });
        simulation.course()
    }

    #[cfg(tokio_unstable)]
    #[test]
    fn a_seed_wakes_in_one_order() {
        assert_eq!(course_of_many_waiters(3), course_of_many_waiters(3));
        assert_ne!(course_of_many_waiters(3), course_of_many_waiters(4));
    }

    #[test]
    fn what_never_ends_is_given_up_at_its_limit() {
        let simulation = Simulation::new(Entropy::seeded(1));
        assert!(simulation.run(LONG, std::future::pending::<()>()).is_none());
        let clock = simulation.clock(Timestamp::default());
        assert!(simulation.run(LONG, clock.sleep(2 * LONG)).is_none());
        assert!(clock.mono() <= Mono::default().after(LONG));
    }

    #[test]
    fn a_panic_is_told() {
        let simulation = Simulation::new(Entropy::seeded(1));
        let process = simulation.process();
        process.tasks().spawn("careless", OnFailure::Log, async {
            assert_eq!(1 + 1, 3, "as it happens");
            Ok::<(), Infallible>(())
        });
        let clock = simulation.clock(Timestamp::default());
        simulation.run(LONG, clock.sleep(Duration::from_secs(1)));
        assert_eq!(simulation.panics().len(), 1);
    }
}

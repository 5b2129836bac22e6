//! A client: one process with one machine of the product in it, and the shell that the simulator is to it.

use std::collections::BTreeMap;
use std::fmt;

use alluvium_ledger::call::{Action, CallId, Event, Machine};
use alluvium_ledger::open::{self, Creation};
use alluvium_ledger::reader::{RangeRead, ReadFailure};
use alluvium_ledger::recovery::{self, Recovery};
use alluvium_ledger::writer::{self, Writer};
use alluvium_types::bookie::StoredEntry;
use alluvium_types::ids::{EntryId, LedgerId};
use alluvium_types::time::Mono;

use crate::network::{Connection, Slot};

/// The machine that runs in a client.
#[derive(Debug)]
pub(super) enum Part {
    Creation(Box<Creation>),
    Writer(Box<Writer>),
    Recovery(Box<Recovery>),
    Reader {
        read: Box<RangeRead>,
        from: EntryId,
        /// The last entry that it may see.
        bound: Option<EntryId>,
    },
}

/// What a machine told the one it works for.
#[derive(Debug)]
pub(super) enum Notice {
    Creation(open::Notice),
    Writer(writer::Notice),
    Recovery(recovery::Notice),
    Reader(Result<Vec<StoredEntry>, ReadFailure>),
}

impl Part {
    pub(super) fn on_event(&mut self, now: Mono, event: Event) {
        match self {
            Self::Creation(machine) => machine.on_event(now, event),
            Self::Writer(machine) => machine.on_event(now, event),
            Self::Recovery(machine) => machine.on_event(now, event),
            Self::Reader { read, .. } => read.on_event(now, event),
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        match self {
            Self::Creation(machine) => machine.poll_action(),
            Self::Writer(machine) => machine.poll_action(),
            Self::Recovery(machine) => machine.poll_action(),
            Self::Reader { read, .. } => read.poll_action(),
        }
    }

    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        match self {
            Self::Creation(machine) => machine.poll_notice().map(Notice::Creation),
            Self::Writer(machine) => machine.poll_notice().map(Notice::Writer),
            Self::Recovery(machine) => machine.poll_notice().map(Notice::Recovery),
            Self::Reader { read, .. } => read.poll_notice().map(Notice::Reader),
        }
    }

    pub(super) fn next_wakeup(&self) -> Option<Mono> {
        match self {
            Self::Creation(machine) => machine.next_wakeup(),
            Self::Writer(machine) => machine.next_wakeup(),
            Self::Recovery(machine) => machine.next_wakeup(),
            Self::Reader { read, .. } => read.next_wakeup(),
        }
    }
}

/// What part a client plays, for names in the trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It creates a ledger.
    Creation,
    /// It writes one.
    Writer,
    /// It recovers one.
    Recovery,
    /// It reads one.
    Reader,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Name,
    pub(super) ledger: LedgerId,
    pub(super) part: Part,
    pub(super) fate: Fate,
    /// Until when its process stands still.
    pub(super) paused_until: Mono,
    /// Questions to bookies that are not answered, and what carries them.
    pub(super) calls: BTreeMap<CallId, (Slot, Connection)>,
    /// Questions to metadata that are not answered, with the number of the last attempt.
    pub(super) asks: BTreeMap<CallId, u64>,
    /// When it wants to be woken; other wakeups are stale.
    pub(super) wake_at: Option<Mono>,
}

/// How a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It works.
    Alive,
    /// It said its last word.
    Ended,
    /// Its process died.
    Crashed,
}

/// A client's name in the trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// What it does.
    pub role: Role,
    /// Which of those who do: writers count from 1, recoveries from 0.
    pub number: usize,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Creation => "create",
            Role::Writer => "writer",
            Role::Recovery => "rec",
            Role::Reader => "reader",
        };
        write!(f, "{role}{}", self.number)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Client {
    pub(super) const fn new(name: Name, ledger: LedgerId, part: Part) -> Self {
        Self {
            name,
            ledger,
            part,
            fate: Fate::Alive,
            paused_until: Mono::from_duration(std::time::Duration::ZERO),
            calls: BTreeMap::new(),
            asks: BTreeMap::new(),
            wake_at: None,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.fate == Fate::Alive
    }

    /// Takes the questions that travelled on a connection which is gone.
    pub(super) fn take_calls_on(&mut self, connection: Connection) -> Vec<CallId> {
        let lost: Vec<CallId> = self.calls.iter().filter(|(_, (_, on))| *on == connection).map(|(&call, _)| call).collect();
        for call in &lost {
            self.calls.remove(call);
        }
        lost
    }
}

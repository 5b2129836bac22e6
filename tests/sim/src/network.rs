//! The network between clients and bookies: connections that keep their order, stall, break, and are made anew.
//!
//! On one connection messages arrive in the order in which they were sent, or not at all from some point on. Messages of
//! different connections overtake each other; a request of a broken connection may still arrive after the client gave it up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use alluvium_types::time::Mono;

use crate::dice::Dice;

/// A process that asks bookies: a writer, a recovery, a reader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub usize);

/// A bookie's place in the world, whatever incarnation lives there now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// One connection; never used again once it broke.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Connection(u64);

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client{}", self.0)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bookie{}", self.0)
    }
}

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From a client to a bookie.
    There,
    /// From a bookie to a client.
    Back,
}

/// How the network behaves apart from the scheduled faults.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How likely a message is the last one that its connection would have carried: it and all later ones are lost.
    pub drop: f64,
    /// The shortest time a message takes.
    pub delay_min: Duration,
    /// The longest time, unless it stalls.
    pub delay_max: Duration,
    /// How likely a message stalls, and with it what follows on its connection.
    pub stall: f64,
    /// The longest stall.
    pub stall_max: Duration,
}

/// What becomes of a message that is sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// On which connection it travels.
    pub connection: Connection,
    /// When it arrives, if it does.
    pub arrives: Option<Mono>,
    /// When the client notices that the connection is broken, if this message broke it.
    pub noticed: Option<Mono>,
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    state: LinkState,
    last_there: Mono,
    last_back: Mono,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LinkState {
    Up,
    /// Nothing sent from now on arrives, and the client hasn't noticed.
    Broken,
    /// The client has noticed; the next message makes a new connection.
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    /// `None` cuts every client off.
    client: Option<ClientId>,
    slot: Slot,
    way: Way,
    until: Mono,
}

/// How long after a connection broke its requests may still arrive: they lay in the bookie's own buffers.
#[derive(Clone, Copy, Debug)]
struct Wreck {
    there_until: Mono,
}

/// All connections.
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    weather: Weather,
    connections: u64,
    links: BTreeMap<(ClientId, Slot), Link>,
    wrecks: BTreeMap<Connection, Wreck>,
    cuts: Vec<Cut>,
    struck: u64,
}

impl Network {
    /// A network without connections.
    pub const fn new(dice: Dice, weather: Weather) -> Self {
        Self { dice, weather, connections: 0, links: BTreeMap::new(), wrecks: BTreeMap::new(), cuts: Vec::new(), struck: 0 }
    }

    /// Messages and connections that were lost so far.
    pub const fn struck(&self) -> u64 {
        self.struck
    }

    /// From now on nothing is lost and nothing stalls.
    pub fn heal(&mut self) {
        self.weather.drop = 0.0;
        self.weather.stall = 0.0;
        self.cuts.clear();
    }

    /// Loses what is sent this way until then; from all clients when `client` is `None`.
    pub fn cut(&mut self, client: Option<ClientId>, slot: Slot, way: Way, until: Mono) {
        self.cuts.push(Cut { client, slot, way, until });
    }

    /// Sends a request, over a new connection if there is none.
    pub fn request(&mut self, now: Mono, client: ClientId, slot: Slot) -> Fate {
        if self.links.get(&(client, slot)).is_none_or(|link| link.state == LinkState::Down) {
            self.connect(now, client, slot);
        }
        self.send(now, client, slot, Way::There)
    }

    /// Sends an answer to a request that came over `connection`.
    pub fn answer(&mut self, now: Mono, client: ClientId, slot: Slot, connection: Connection) -> Fate {
        if self.links.get(&(client, slot)).is_none_or(|link| link.connection != connection || link.state != LinkState::Up) {
            return Fate { connection, arrives: None, noticed: None };
        }
        self.send(now, client, slot, Way::Back)
    }

    /// Sends a request to a bookie that is down: the client notices, at once or only by and by.
    pub fn refuse(&mut self, now: Mono, client: ClientId, slot: Slot) -> Fate {
        if let Some(link) = self.links.get(&(client, slot))
            && link.state != LinkState::Down
        {
            return Fate { connection: link.connection, arrives: None, noticed: None };
        }
        self.connect(now, client, slot);
        let silent = self.dice.chance(0.3);
        let patience = self.dice.time(Duration::ZERO, Duration::from_millis(if silent { 300 } else { 5 }));
        let link = self.links.get_mut(&(client, slot)).expect("it was just made");
        link.state = LinkState::Broken;
        Fate { connection: link.connection, arrives: None, noticed: Some(now.after(patience)) }
    }

    fn connect(&mut self, now: Mono, client: ClientId, slot: Slot) {
        self.connections += 1;
        // A round trip before the first request leaves.
        let ready = now.after(self.delay() + self.delay());
        let link = Link { connection: Connection(self.connections), state: LinkState::Up, last_there: ready, last_back: ready };
        self.links.insert((client, slot), link);
    }

    fn delay(&mut self) -> Duration {
        let delay = self.dice.time(self.weather.delay_min, self.weather.delay_max);
        if self.dice.chance(self.weather.stall) { delay + self.dice.time(Duration::ZERO, self.weather.stall_max) } else { delay }
    }

    fn send(&mut self, now: Mono, client: ClientId, slot: Slot, way: Way) -> Fate {
        self.cuts.retain(|cut| cut.until > now);
        let held_until = self
            .cuts
            .iter()
            .filter(|cut| cut.slot == slot && cut.way == way && cut.client.is_none_or(|c| c == client))
            .map(|cut| cut.until)
            .max();
        let lost = self.dice.chance(self.weather.drop) || (held_until.is_some() && self.dice.chance(0.5));
        let mut at = now.after(self.delay());
        if let Some(until) = held_until {
            // The kernel sends it again until it gets through.
            at = at.max(until.after(self.delay()));
        }
        let patience = self.dice.time(Duration::from_millis(1), Duration::from_millis(250));
        let link = self.links.get_mut(&(client, slot)).expect("the callers looked it up");
        let connection = link.connection;
        if link.state != LinkState::Up {
            return Fate { connection, arrives: None, noticed: None };
        }
        if lost {
            self.struck += 1;
            link.state = LinkState::Broken;
            self.wrecks.insert(connection, Wreck { there_until: now.after(Duration::from_secs(3600)) });
            return Fate { connection, arrives: None, noticed: Some(now.after(patience)) };
        }
        let last = match way {
            Way::There => &mut link.last_there,
            Way::Back => &mut link.last_back,
        };
        at = at.max(last.after(Duration::from_nanos(1)));
        *last = at;
        Fate { connection, arrives: Some(at), noticed: None }
    }

    /// Whether a message that was to arrive now over `connection` does.
    pub fn arrives(&self, now: Mono, client: ClientId, slot: Slot, connection: Connection, way: Way) -> bool {
        match way {
            Way::There => self.wrecks.get(&connection).is_none_or(|wreck| now <= wreck.there_until),
            // What was on its way back when it broke is lost once the client has noticed.
            Way::Back => {
                self.links.get(&(client, slot)).is_some_and(|link| link.connection == connection && link.state != LinkState::Down)
            }
        }
    }

    /// The client notices that `connection` is broken. Returns whether it was the current one.
    pub fn notice(&mut self, client: ClientId, slot: Slot, connection: Connection) -> bool {
        match self.links.get_mut(&(client, slot)) {
            Some(link) if link.connection == connection && link.state != LinkState::Down => {
                link.state = LinkState::Down;
                true
            }
            _ => false,
        }
    }

    /// Breaks the connection between two; returns it, with the time when the client notices.
    pub fn break_link(&mut self, now: Mono, client: ClientId, slot: Slot) -> Option<(Connection, Mono)> {
        let grace = self.dice.time(Duration::ZERO, Duration::from_millis(300));
        let patience = self.dice.time(Duration::ZERO, Duration::from_millis(50));
        let link = self.links.get_mut(&(client, slot)).filter(|link| link.state == LinkState::Up)?;
        link.state = LinkState::Broken;
        self.struck += 1;
        self.wrecks.insert(link.connection, Wreck { there_until: now.after(grace) });
        Some((link.connection, now.after(patience)))
    }

    /// A bookie is gone: all its connections break, and nothing that was on its way to it arrives. Returns who will notice.
    pub fn drop_bookie(&mut self, now: Mono, slot: Slot) -> Vec<(ClientId, Connection, Mono)> {
        let mut noticed = Vec::new();
        for ((client, at), link) in &mut self.links {
            if *at == slot && link.state != LinkState::Down {
                link.state = LinkState::Broken;
                self.wrecks.insert(link.connection, Wreck { there_until: now });
                // Most kernels say so at once; a dead host says nothing.
                let silent = self.dice.chance(0.3);
                let most = Duration::from_millis(if silent { 300 } else { 5 });
                noticed.push((*client, link.connection, now.after(self.dice.time(Duration::ZERO, most))));
            }
        }
        noticed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEATHER: Weather = Weather {
        drop: 0.0,
        delay_min: Duration::from_micros(100),
        delay_max: Duration::from_millis(20),
        stall: 0.1,
        stall_max: Duration::from_millis(500),
    };

    #[test]
    fn one_connection_keeps_its_order() {
        let mut network = Network::new(Dice::new(1, 1), WEATHER);
        let mut last = Mono::default();
        for _ in 0..200 {
            let at = network.request(Mono::default(), ClientId(0), Slot(0)).arrives.expect("nothing is lost");
            assert!(at > last);
            last = at;
        }
    }

    #[test]
    fn a_broken_connection_loses_answers_and_a_new_one_is_made_once_noticed() {
        let mut network = Network::new(Dice::new(1, 1), WEATHER);
        let (client, slot) = (ClientId(0), Slot(0));
        let first = network.request(Mono::default(), client, slot);
        let (broken, noticed) = network.break_link(Mono::default(), client, slot).expect("it was up");
        assert_eq!(broken, first.connection);
        assert_eq!(network.answer(noticed, client, slot, broken).arrives, None);
        assert_eq!(network.request(noticed, client, slot).arrives, None, "it has not noticed yet");
        assert!(network.notice(client, slot, broken));
        assert!(!network.arrives(noticed, client, slot, broken, Way::Back));
        let second = network.request(noticed, client, slot);
        assert_ne!(second.connection, broken);
        assert!(second.arrives.is_some());
    }

    #[test]
    fn a_cut_is_one_way() {
        let mut network = Network::new(Dice::new(3, 1), WEATHER);
        let until = Mono::from_duration(Duration::from_secs(9));
        network.cut(None, Slot(0), Way::Back, until);
        let there = network.request(Mono::default(), ClientId(0), Slot(0));
        assert!(there.arrives.is_some_and(|at| at < until));
        let back = network.answer(Mono::default(), ClientId(0), Slot(0), there.connection);
        assert!(back.arrives.is_none_or(|at| at > until));
    }
}

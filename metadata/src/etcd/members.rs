//! The members of etcd: who is asked, for how long, who is asked next, and whether it is still the etcd that it was.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use alluvium_runtime::clock::Clock;
use alluvium_types::ids::Revision;
use etcd_client::{
    Client, CompactionResponse, ConnectOptions, GetOptions, GetResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseRevokeResponse, ResponseHeader, TxnResponse, WatchOptions, WatchStream,
};
use parking_lot::Mutex;

use super::fault::{Fault, Kind};
use super::layout::{self, Layout};

/// The longest answer that is taken: one record at least, and a usual page.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// When a call that failed is put to another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// Whenever that may help: asking twice is asking once.
    Freely,
    /// Only while nothing of it can have been applied (M3).
    IfNotApplied,
}

/// What etcd answers.
pub(crate) trait Answer {
    /// Whether it shows everything that was answered before it was asked for. Others come from a member that may lag.
    const IS_LINEARIZABLE: bool;

    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! answers {
    ($($answer:ty: $is_linearizable:literal),+ $(,)?) => {
        $(impl Answer for $answer {
            const IS_LINEARIZABLE: bool = $is_linearizable;

            fn header(&self) -> Option<&ResponseHeader> {
                <$answer>::header(self)
            }
        })+
    };
}

answers! {
    GetResponse: true,
    TxnResponse: true,
    LeaseGrantResponse: false,
    LeaseKeepAliveResponse: false,
    LeaseRevokeResponse: false,
    CompactionResponse: false,
}

/// All members.
pub(crate) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    clock: Clock,
    request_timeout: Duration,
    /// Who is asked first.
    current: AtomicUsize,
    /// Which etcd this is, once one has answered.
    cluster: OnceLock<u64>,
    /// The newest revision that any answer or change has shown.
    known: AtomicI64,
    /// That it is another etcd now was said.
    alarmed: AtomicBool,
}

struct Member {
    url: String,
    client: Mutex<Option<Client>>,
}

/// Without the options, which hold the password.
impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Members").field(&self.members).finish()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Members {
    /// Connects to nobody yet.
    pub(crate) fn new(urls: &[String], options: ConnectOptions, clock: Clock, request_timeout: Duration) -> Self {
        Self {
            members: urls.iter().map(|url| Member { url: url.clone(), client: Mutex::new(None) }).collect(),
            options,
            clock,
            request_timeout,
            current: AtomicUsize::new(0),
            cluster: OnceLock::new(),
            known: AtomicI64::new(0),
            alarmed: AtomicBool::new(false),
        }
    }

    /// Puts a call to the current member, and to the others in turn while `repeat` allows it and it helps: each is asked once,
    /// and given the time of one request.
    pub(crate) async fn ask<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        T: Answer,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let known = self.known.load(Ordering::Acquire);
        let mut reasons: Vec<String> = Vec::new();
        let mut worst = Kind::NotApplied;
        for _ in 0..self.members.len() {
            let at = self.current.load(Ordering::Relaxed);
            let member = &self.members[at];
            let answer = self.in_time(
                &member.url,
                Box::pin(async {
                    let client = self.client(member).await?;
                    call(client).await.map_err(|error| Fault::of(&member.url, &error))
                }),
            );
            let fault = match answer.await {
                Ok(answer) => match self.check(&member.url, answer.header(), T::IS_LINEARIZABLE.then_some(known)) {
                    Ok(()) => return Ok(answer),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            if !fault.kind.is_of_the_member() {
                return Err(fault);
            }
            tracing::debug!(reason = %fault.reason, kind = ?fault.kind, "etcd did not answer as asked");
            self.leave(at, fault.kind);
            reasons.push(fault.reason);
            // What one member may have applied is not certain because another one refused it.
            if worst.is_certain() && fault.kind != Kind::NotApplied {
                worst = fault.kind;
            }
            if repeat == Repeat::IfNotApplied && !worst.is_certain() {
                break;
            }
        }
        Err(Fault { kind: worst, reason: reasons.join("; ") })
    }

    /// The newest revision, by a linearizable read; that this is the same etcd is checked on the way.
    pub(crate) async fn newest(&self, layout: &Layout) -> Result<Newest, Fault> {
        let answer = self.ask(Repeat::Freely, |client| async move {
            client.kv_client().get(layout.first(), Some(GetOptions::new().with_count_only())).await
        });
        let answer: GetResponse = answer.await?;
        let header = answer.header().expect("its header was checked");
        Ok(Newest { revision: layout::revision(header.revision()), term: header.raft_term() })
    }

    /// Begins a watch at the current member.
    pub(crate) async fn watch(&self, layout: &Layout, options: WatchOptions) -> Result<Watching<'_>, Fault> {
        let at = self.current.load(Ordering::Relaxed);
        let member = &self.members[at];
        let begun = self.in_time(
            &member.url,
            Box::pin(async {
                let client = self.client(member).await?;
                let mut watcher = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                watcher.watch(layout.first(), Some(options)).await.map_err(|error| Fault::of(&member.url, &error))
            }),
        );
        match begun.await {
            Ok(stream) => Ok(Watching { members: self, at, stream }),
            Err(fault) => {
                self.leave(at, fault.kind);
                Err(fault)
            }
        }
    }

    /// A change has shown this revision.
    pub(crate) fn seen(&self, revision: Revision) {
        self.known.fetch_max(layout::number(revision).unwrap_or(0), Ordering::AcqRel);
    }

    async fn in_time<T>(&self, url: &str, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let limit = self.request_timeout;
        self.clock.timeout(limit, call).await.unwrap_or_else(|_| Err(Fault::late(url, limit)))
    }

    /// A member's client; its connection is made anew by itself.
    async fn client(&self, member: &Member) -> Result<Client, Fault> {
        let known = member.client.lock().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let made = Client::connect([&member.url], Some(self.options.clone())).await;
        let client = made.map_err(|error| match Fault::of(&member.url, &error) {
            // Nothing was asked for yet.
            fault @ Fault { kind: Kind::Open, .. } => Fault { kind: Kind::NotApplied, ..fault },
            fault => fault,
        })?;
        *member.client.lock() = Some(client.clone());
        Ok(client)
    }

    /// Another member is asked next.
    fn leave(&self, at: usize, why: Kind) {
        let next = (at + 1) % self.members.len();
        // Somebody may have left it already.
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        if why == Kind::Denied {
            // The next client asks for another token.
            *self.members[at].client.lock() = None;
        }
    }

    /// Checks that an answer is of the etcd that answered before, and shows at least `known`. An etcd that was emptied or
    /// restored from a backup has forgotten decisions that were made: nothing it says may be built on them.
    fn check(&self, url: &str, header: Option<&ResponseHeader>, known: Option<i64>) -> Result<(), Fault> {
        let fault = |why: String| Fault { kind: Kind::OtherHistory, reason: format!("{url}: {why}") };
        let result = match header {
            None => return Err(Fault { kind: Kind::Open, reason: format!("{url}: an answer without a header") }),
            Some(header) => {
                let cluster = *self.cluster.get_or_init(|| header.cluster_id());
                if header.cluster_id() != cluster {
                    let found = header.cluster_id();
                    Err(fault(format!("it is etcd {found:016x}; {cluster:016x} was used so far")))
                } else if let Some(known) = known.filter(|known| header.revision() < *known) {
                    let found = header.revision();
                    Err(fault(format!("it is at revision {found}, but {known} was shown: it was emptied or restored")))
                } else {
                    self.known.fetch_max(header.revision(), Ordering::AcqRel);
                    Ok(())
                }
            }
        };
        match &result {
            Ok(()) => self.alarmed.store(false, Ordering::Relaxed),
            Err(fault) => {
                if !self.alarmed.swap(true, Ordering::Relaxed) {
                    tracing::error!(reason = %fault.reason, "etcd is not what it was; nothing it says is used");
                }
            }
        }
        result
    }
}

/// The newest revision of a linearizable read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Newest {
    pub(crate) revision: Revision,
    /// The term of the leader that was confirmed by a majority to lead, after the read was asked for.
    pub(crate) term: u64,
}

/// A watch at one member.
#[derive(Debug)]
pub(crate) struct Watching<'a> {
    members: &'a Members,
    at: usize,
    stream: WatchStream,
}

impl Watching<'_> {
    /// The next message. Cancel safe.
    pub(crate) async fn message(&mut self) -> Result<etcd_client::WatchResponse, Fault> {
        let url = &self.members.members[self.at].url;
        let message = match self.stream.message().await {
            Ok(Some(message)) => self.members.check(url, message.header(), None).map(|()| message),
            Ok(None) => Err(Fault { kind: Kind::NotApplied, reason: format!("{url}: the watch ended") }),
            Err(error) => Err(Fault::of(url, &error)),
        };
        message.inspect_err(|fault| self.members.leave(self.at, fault.kind))
    }

    /// Gives up on this member, which has ended the watch and said why.
    pub(crate) fn ended(&self, why: &str) -> Fault {
        // A watch that is not permitted is told so in its own words, also when only its token is worth nothing any more.
        self.members.leave(self.at, Kind::Denied);
        Fault { kind: Kind::NotApplied, reason: format!("{}: {why}", self.members.members[self.at].url) }
    }
}

/// Limits of the client for keys and values.
pub(crate) fn kv(client: &Client) -> etcd_client::KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}

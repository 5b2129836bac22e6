//! Ledgers.

use alluvium_client::admin;
use clap::Subcommand;
use serde::Serialize;

use crate::command::Common;
use crate::exit::Failure;
use crate::output::{Show, or_dash};
use crate::policies::Replication;

#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// Show a ledger and its fragments
    Get {
        /// Its number
        id: u64,
    },
    /// List all ledgers
    List {
        /// Only those that are short of copies, or have some on bookies that are not alive
        #[arg(long)]
        under_replicated: bool,
    },
}

#[derive(Serialize)]
struct View {
    id: u64,
    state: &'static str,
    epoch: u64,
    last_entry: Option<u64>,
    replication: Option<Replication>,
    wanted_replication: Option<Replication>,
    under_replicated: bool,
    essential: bool,
    fragments: Vec<Fragment>,
}

#[derive(Clone, Serialize)]
struct Fragment {
    first_entry: u64,
    bookies: Vec<String>,
    short: Vec<String>,
    absent: Vec<String>,
}

impl From<admin::Ledger> for View {
    fn from(ledger: admin::Ledger) -> Self {
        let state = match ledger.state() {
            admin::LedgerState::Open => "open",
            admin::LedgerState::Recovering => "recovering",
            admin::LedgerState::Closed => "closed",
            admin::LedgerState::Deleting => "deleting",
            admin::LedgerState::Unspecified => "unknown",
        };
        let fragment = |fragment: admin::LedgerFragment| Fragment {
            first_entry: fragment.first_entry,
            bookies: fragment.bookies,
            short: fragment.short,
            absent: fragment.absent,
        };
        Self {
            id: ledger.id,
            state,
            epoch: ledger.epoch,
            last_entry: ledger.last_entry,
            replication: ledger.replication.map(Replication::from),
            wanted_replication: ledger.wanted_replication.map(Replication::from),
            under_replicated: ledger.under_replicated,
            essential: ledger.essential,
            fragments: ledger.fragments.into_iter().map(fragment).collect(),
        }
    }
}

impl Show for View {
    fn columns() -> &'static [&'static str] {
        &["LEDGER", "STATE", "EPOCH", "LAST ENTRY", "REPLICATION", "WANTED", "UNDER-REPLICATED", "HOLDS"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.state.to_owned(),
            self.epoch.to_string(),
            or_dash(self.last_entry),
            or_dash(self.replication),
            or_dash(self.wanted_replication),
            if self.under_replicated { "yes" } else { "no" }.to_owned(),
            if self.essential { "state" } else { "messages" }.to_owned(),
        ]
    }
}

impl Show for Fragment {
    fn columns() -> &'static [&'static str] {
        &["FIRST ENTRY", "BOOKIES", "SHORT", "NOT ALIVE"]
    }

    fn row(&self) -> Vec<String> {
        let some = |bookies: &[String]| if bookies.is_empty() { "-".to_owned() } else { bookies.join(",") };
        vec![self.first_entry.to_string(), self.bookies.join(","), some(&self.short), some(&self.absent)]
    }
}

impl Ledger {
    pub(crate) async fn run(self, common: &Common) -> Result<(), Failure> {
        let (output, admin) = (common.output, common.server.admin().await?);
        match self {
            Self::Get { id } => {
                let ledger = View::from(admin.get_ledger(id).await?);
                output.whole(&ledger, &ledger.fragments)
            }
            Self::List { under_replicated } => {
                let ledgers = admin.list_ledgers(under_replicated).await?;
                output.many("ledgers", &ledgers.into_iter().map(View::from).collect::<Vec<_>>())
            }
        }
    }
}

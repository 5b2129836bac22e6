//! A server beside its ceilings.

use std::path::PathBuf;
use std::time::Duration;

use alluvium_bench::ceiling::Ceiling;
use alluvium_bench::suite::Suite;
use alluvium_bench::suite::rows::Scale;
use alluvium_runtime::tasks::Tasks;
use clap::Args;

use super::ceiling::Itself;
use super::load::{failure, say};
use crate::command::Common;
use crate::exit::{Code, Failure};
use crate::interrupt;
use crate::units::size;

/// What `--quick` is: ten minutes.
const QUICK: Scale =
    Scale { rounds: 5, duration: Duration::from_secs(3), warm_up: Duration::from_secs(1), backlog_bytes: 1 << 30 };
/// The whole: an hour.
const WHOLE: Scale =
    Scale { rounds: 7, duration: Duration::from_secs(20), warm_up: Duration::from_secs(5), backlog_bytes: 10 << 30 };

#[derive(Debug, Args)]
pub(super) struct SuiteArgs {
    /// A folder on the disk that the server writes to. What is made there is gone at the end
    #[arg(long, value_name = "DIR", default_value = "alluvium-ceiling")]
    dir: PathBuf,
    /// Bytes of a ceiling's run: fewer than 3 GiB flatter
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "3GiB")]
    bytes: u64,
    /// Ten minutes rather than an hour
    #[arg(long)]
    quick: bool,
    /// How often server and ceilings alternate: 5 when it is quick, else 7
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// A cluster of three bookies, each a process, for the row that is about one
    #[arg(long, value_name = "URL")]
    cluster: Option<String>,
}

impl SuiteArgs {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let server = common.server.connect().await?.server().to_owned();
        let scale = if self.quick { QUICK } else { WHOLE };
        let scale = Scale { rounds: self.rounds.unwrap_or(scale.rounds), ..scale };
        let (starter, (tasks, _failures), (stop, _others)) = (Itself::new()?, Tasks::new(), Tasks::new());
        let ceiling = Ceiling { dir: self.dir, bytes: self.bytes, starter: &starter, tasks: &tasks };
        let suite = Suite { server, cluster: self.cluster, ceiling, scale };
        let mut tell = |line: &str| say(line);
        let findings = {
            let mut running = Box::pin(suite.run(&stop, &mut tell));
            tokio::select! {
                biased;
                findings = &mut running => Ok(findings),
                () = interrupt::told_to_stop() => {
                    stop.stop();
                    interrupt::finish("the findings were there", running).await
                }
            }
        };
        let cleaned = suite.ceiling.clean();
        let findings = findings?.map_err(failure)?;
        common.output.done(&findings.text(), &findings.to_json())?;
        cleaned.map_err(|error| Failure::io("cannot remove what was made for the ceilings", &error))?;
        if stop.is_stopping() { Err(Failure::new(Code::Interrupted, "interrupted")) } else { Ok(()) }
    }
}

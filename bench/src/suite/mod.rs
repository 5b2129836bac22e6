//! A server's figures as shares of what its machine gives: each beside its ceiling, in the same minute, several times over.
//!
//! Shared machines drift; a ratio of neighbours drifts less. Read [`rows`] for what is measured, [`spread`] for what several rounds
//! come to.

mod replay;
pub mod rows;
pub mod spread;

use std::io;

use alluvium_runtime::machine::Machine;
use alluvium_runtime::tasks::Tasks;
use serde_json::{Value, json};

use self::replay::Compared;
use self::rows::{Against, Figure, Measure, Row, Scale};
use self::spread::Spread;
use crate::ceiling::{Ceiling, PipelineRow};
use crate::error::Error;
use crate::load::{Observer, Second, Setting};
use crate::result::Outcome;
use crate::workload::Workload;

/// A server, perhaps a cluster, and the ceilings beside them.
pub struct Suite<'a> {
    /// A standalone server.
    pub server: String,
    /// A cluster of three bookies, each a process, whose topics are kept by three and acknowledged by two.
    pub cluster: Option<String>,
    /// What measures ceilings, in a folder on the server's disk.
    pub ceiling: Ceiling<'a>,
    /// How long, and how much.
    pub scale: Scale,
}

/// One row's figures.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The row.
    pub row: Row,
    /// The server's.
    pub server: Spread,
    /// The ceiling's.
    pub ceiling: Spread,
    /// The ratio of each round.
    pub ratio: Spread,
    /// Why a round has no figure.
    pub missing: Option<String>,
}

/// All rows.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The machine.
    pub machine: Machine,
    /// Where and under what promise the first load took place.
    pub setting: Option<Setting>,
    /// The rows.
    pub rows: Vec<Finding>,
}

/// Remembers where the loads take place.
#[derive(Default)]
struct Quiet(Option<Setting>);

impl Observer for Quiet {
    fn begins(&mut self, setting: &Setting, _: &Workload) {
        self.0.get_or_insert_with(|| setting.clone());
    }

    fn second(&mut self, _: &Second) {}
}

impl Suite<'_> {
    /// Measures all rows; `seen` is told of each figure as it comes. When `stop` is stopped it ends with what it has.
    pub async fn run(&self, stop: &Tasks, seen: &mut (dyn FnMut(&str) + Send)) -> Result<Findings, Error> {
        let new =
            |row| Finding { row, server: Spread::default(), ceiling: Spread::default(), ratio: Spread::default(), missing: None };
        let mut findings: Vec<Finding> = rows::rows(self.scale).into_iter().map(new).collect();
        let mut quiet = Quiet::default();
        seen("making files");
        self.ceiling.prepare().await.map_err(system)?;
        for round in 0..self.scale.rounds {
            let mut pipelines: Vec<PipelineRow> = Vec::new();
            for finding in &mut findings {
                let url = if finding.row.of_a_cluster { self.cluster.as_ref() } else { Some(&self.server) };
                let Some(url) = url else {
                    finding.missing = Some("no cluster was named".to_owned());
                    continue;
                };
                if stop.is_stopping() {
                    break;
                }
                match Box::pin(self.compared(url, &finding.row, &mut pipelines, stop, &mut quiet)).await? {
                    Ok((server, ceiling)) => {
                        finding.add(server, ceiling);
                        seen(&format!("round {}: {}", round + 1, finding.text()));
                    }
                    Err(why) => {
                        seen(&format!("round {}: {}: {why}", round + 1, finding.row.name));
                        finding.missing = Some(why);
                    }
                }
            }
        }
        Ok(Findings { machine: Machine::here(), setting: quiet.0, rows: findings })
    }

    /// A server's figure beside its ceiling's, or why there is none.
    async fn compared(
        &self,
        url: &str,
        row: &Row,
        pipelines: &mut Vec<PipelineRow>,
        stop: &Tasks,
        quiet: &mut Quiet,
    ) -> Result<Compared, Error> {
        match &row.measure {
            Measure::BestOf(loads) => {
                let ceiling = self.ceiling_of(row, pipelines).await.map_err(system)?;
                Ok(best_of(url, row.figure, loads, stop, quiet).await?.map(|server| (server, ceiling)))
            }
            Measure::BesideAReplay(publish, bytes) => replay::beside_a_publish(url, publish, *bytes, stop, quiet).await,
            Measure::ReplayOfOne(written) => {
                let ceiling = self.ceiling_of(row, pipelines).await.map_err(system)?;
                Ok(replay::one_of_many(url, written, stop, quiet).await?.map(|server| (server, ceiling)))
            }
        }
    }

    /// A ceiling's figure; each pipeline is measured once a round, right before the first load that is told by it.
    async fn ceiling_of(&self, row: &Row, pipelines: &mut Vec<PipelineRow>) -> io::Result<f64> {
        match row.against {
            Against::Reads => Ok(self.ceiling.read_as_a_bookie().await?.megabytes),
            Against::Itself => Ok(0.0),
            Against::Pipeline(kind) => {
                if !pipelines.iter().any(|pipeline| pipeline.kind == kind) {
                    pipelines.push(self.ceiling.pipeline(kind).await?);
                }
                Ok(pipelines.iter().find(|pipeline| pipeline.kind == kind).map_or(0.0, |found| row.figure.of_pipeline(found)))
            }
        }
    }
}

/// Whether it is of the whole load, and no failure.
fn sound(outcome: &Outcome) -> Result<(), String> {
    if outcome.is_interrupted { Err("interrupted".to_owned()) } else { outcome.verdict() }
}

/// The best of some loads, or why there is none.
async fn best_of(
    url: &str,
    figure: Figure,
    loads: &[Workload],
    stop: &Tasks,
    quiet: &mut Quiet,
) -> Result<Result<f64, String>, Error> {
    let mut best: Result<f64, String> = Err("no load was prompt".to_owned());
    for load in loads {
        let outcome = crate::load::run(url, load, stop, quiet).await?;
        if let Err(why) = sound(&outcome) {
            return Ok(Err(why));
        }
        if let Some(figure) = figure.of(&outcome) {
            best = Ok(best.map_or(figure, |best| best.max(figure)));
        }
    }
    Ok(best)
}

fn system(source: io::Error) -> Error {
    Error::System { what: "cannot measure a ceiling".to_owned(), source }
}

impl Finding {
    fn add(&mut self, server: f64, ceiling: f64) {
        self.server.add(server);
        self.ceiling.add(ceiling);
        self.ratio.add(server / ceiling.max(1e-9));
    }

    /// A line.
    pub fn text(&self) -> String {
        let row = &self.row;
        let Some((server, ceiling, ratio)) = self.medians() else {
            return format!("{:<40} no figure: {}", row.name, self.missing.as_deref().unwrap_or("no round was completed"));
        };
        let range = |spread: &Spread| spread.range().map_or(String::new(), |(least, most)| format!("[{least:.2}-{most:.2}]"));
        let (at_least, aim) = (row.bar.at_least, row.bar.aim);
        format!(
            "{:<40}{server:>12.0} {:<11}ceiling {ceiling:>12.0}  ratio {ratio:>5.2} {:<12}  at least {at_least}, aim {aim}: {}",
            row.name,
            row.figure.unit(),
            range(&self.ratio),
            row.bar.judge(ratio).word()
        )
    }

    fn medians(&self) -> Option<(f64, f64, f64)> {
        Some((self.server.median()?, self.ceiling.median()?, self.ratio.median()?))
    }

    fn to_json(&self) -> Value {
        let Self { row, server, ceiling, ratio, missing } = self;
        json!({
            "name": row.name, "unit": row.figure.unit(), "against": row.against.name(), "atLeast": row.bar.at_least,
            "aim": row.bar.aim, "lowerIsBetter": row.bar.lower_is_better, "server": server.to_json(), "ceiling": ceiling.to_json(),
            "ratio": ratio.to_json(), "verdict": ratio.median().map(|ratio| row.bar.judge(ratio).word()), "missing": missing,
        })
    }
}

impl Findings {
    /// The table.
    pub fn text(&self) -> String {
        self.rows.iter().map(Finding::text).collect::<Vec<_>>().join("\n")
    }

    /// The document.
    pub fn to_json(&self) -> Value {
        let Machine { host, kernel, processor, cpus, memory_bytes } = &self.machine;
        let setting = self.setting.as_ref();
        json!({
            "host": host, "kernel": kernel, "processor": processor, "cpus": cpus, "memoryBytes": memory_bytes,
            "busyBefore": setting.map(|setting| setting.busy_before),
            "durability": setting.map(|setting| setting.durability.clone()),
            "serverVersion": setting.map(|setting| setting.server_version.clone()),
            "rows": self.rows.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn finding(number: usize) -> Finding {
        let second = Duration::from_secs(1);
        let row = rows::rows(Scale { rounds: 3, duration: second, warm_up: second, backlog_bytes: 1 }).swap_remove(number);
        Finding { row, server: Spread::default(), ceiling: Spread::default(), ratio: Spread::default(), missing: None }
    }

    #[test]
    fn a_row_is_told_by_the_median_of_its_ratios() {
        let mut finding = finding(0);
        // The machine slows down: what is told is the share of the same minute.
        for (server, ceiling) in [(500.0, 1000.0), (50.0, 100.0), (90.0, 100.0)] {
            finding.add(server, ceiling);
        }
        let json = finding.to_json();
        assert_eq!((&json["ratio"]["median"], &json["ratio"]["rounds"]), (&0.5.into(), &3.into()), "{json}");
        assert_eq!((&json["verdict"], &json["server"]["median"]), (&"enough".into(), &90.0.into()), "{json}");
        assert!(finding.text().contains("ratio  0.50 [0.50-0.90]"), "{}", finding.text());
    }

    #[test]
    fn a_row_that_was_not_run_says_why() {
        let cluster = Finding { missing: Some("no cluster was named".to_owned()), ..finding(3) };
        assert!(cluster.row.of_a_cluster && cluster.text().ends_with("no figure: no cluster was named"), "{}", cluster.text());
        let machine = Machine { host: "h".into(), kernel: "k".into(), processor: "p".into(), cpus: 2, memory_bytes: 1 };
        let findings = Findings { machine, setting: None, rows: vec![cluster] };
        let json = findings.to_json();
        assert_eq!((&json["rows"][0]["verdict"], &json["rows"][0]["ratio"]["median"]), (&Value::Null, &Value::Null), "{json}");
    }
}

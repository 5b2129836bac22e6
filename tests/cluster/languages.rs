//! A program in another language, of plain stubs and without retries, does not notice that it talks to the wrong broker, nor that the
//! owner is killed. What nobody can know it is told: whether a message without a producer's name was stored when its owner died with
//! it in hand.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use alluvium_tests::Cluster;

use crate::load::LIMIT;

const TOPIC: &str = "public/default/any-language";
/// How many messages the program publishes, in one call.
const MESSAGES: u64 = 10;
/// How long after its messages are stored the owner is killed: while it consumes, acknowledges, gives back, pulls and seeks.
const STORED_MS: [u64; 6] = [0, 20, 50, 100, 200, 400];
/// How long after its topic was made, in which its messages may be on their way.
const MADE_MS: [u64; 3] = [0, 10, 20];

/// The program at work through the broker that owns nothing.
struct Program(Child);

impl Program {
    fn start(cluster: &Cluster) -> Self {
        let address = cluster.reach(&["broker-1"]);
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("python");
        command.arg(tests.join("python/client.py")).arg(address.trim_start_matches("http://")).arg(tests.join("../proto"));
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("./test installs python and its packages"))
    }

    /// Waits until its topic holds so many messages.
    fn wait(&mut self, cluster: &Cluster, messages: u64) {
        let begun = Instant::now();
        loop {
            let topic = cluster.tool("broker-1", &["topic", "get", TOPIC, "-o", "json"]);
            let topic: serde_json::Value = serde_json::from_str(&topic.stdout).unwrap_or_default();
            if topic["partitions"][0]["end_offset"].as_u64().is_some_and(|end| end >= messages) {
                return;
            }
            let goes_on = self.0.try_wait().expect("a child can be asked").is_none();
            assert!(goes_on && begun.elapsed() < LIMIT, "its topic does not hold {messages} messages:\n{}", cluster.logs());
        }
    }

    fn end(self) -> Output {
        self.0.wait_with_output().expect("a child can be waited for")
    }
}

/// The same cluster and name for the next run.
fn tidy(cluster: &mut Cluster) {
    cluster.restart("broker-0");
    cluster.tool("broker-1", &["topic", "delete", TOPIC]).ok();
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_python_program_of_plain_stubs_outlives_the_owner() {
    let mut cluster = Cluster::prepare(3, 2);
    cluster.configure("broker-1", "weight = 0\n");
    cluster.start_members();
    for after in STORED_MS.map(Duration::from_millis) {
        let mut program = Program::start(&cluster);
        program.wait(&cluster, MESSAGES);
        std::thread::sleep(after);
        let at_work = program.0.try_wait().expect("a child can be asked").is_none();
        cluster.kill("broker-0");
        let output = program.end();
        assert!(output.status.success(), "{after:?} after its messages: {}\n{}", errors(&output), cluster.logs());
        println!(
            "the owner was killed {after:?} after the program's messages were stored (at work: {at_work}): it did not notice"
        );
        tidy(&mut cluster);
    }
    for after in MADE_MS.map(Duration::from_millis) {
        let mut program = Program::start(&cluster);
        program.wait(&cluster, 0);
        std::thread::sleep(after);
        cluster.kill("broker-0");
        let output = program.end();
        let told = errors(&output).contains("it may or may not be stored");
        assert!(output.status.success() || told, "{after:?} after its topic: {}\n{}", errors(&output), cluster.logs());
        let what = if told { "it was told that the outcome is unknown" } else { "it did not notice" };
        println!("the owner was killed {after:?} after the program's topic was made: {what}");
        tidy(&mut cluster);
    }
}

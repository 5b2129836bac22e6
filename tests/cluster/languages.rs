//! A program in another language, of plain stubs and without retries, does not notice that it talks to the wrong broker, nor that the
//! owner is gone. Killed with the program's work in hand, it costs what is promised to nobody: that what is given out and not
//! acknowledged does not come again (T2), and that a message without a producer's name is known to be stored.

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

/// Where the program compares what it is given, and takes nothing twice.
const OF_DELIVERIES: [&str; 3] =
    ["assert consumer.take(", "assert sorted(pulled)", "assert [m.message.offset for m in again.messages]"];

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
    // An owner that is gone already is not missed.
    cluster.kill("broker-0");
    let begun = Instant::now();
    while !cluster.tool("broker-1", &["cluster", "get", "-o", "json"]).stdout.contains(r#""brokers":1"#) {
        assert!(begun.elapsed() < LIMIT, "its session ends:\n{}", cluster.logs());
    }
    let program = Program::start(&cluster);
    let output = program.end();
    assert!(output.status.success(), "{}\n{}", errors(&output), cluster.logs());
    tidy(&mut cluster);
    let mut survived = 0;
    for (messages, moments) in [(MESSAGES, &STORED_MS[..]), (0, &MADE_MS)] {
        for after in moments.iter().copied().map(Duration::from_millis) {
            let mut program = Program::start(&cluster);
            program.wait(&cluster, messages);
            std::thread::sleep(after);
            let at_work = program.0.try_wait().expect("a child can be asked").is_none();
            cluster.kill("broker-0");
            let output = program.end();
            let errors = errors(&output);
            let outcome = match () {
                () if output.status.success() => "it did not notice",
                () if errors.contains("it may or may not be stored") => "it was told that the outcome is unknown",
                () if OF_DELIVERIES.iter().any(|line| errors.contains(line)) => "what it had not acknowledged came again",
                () => panic!("{after:?} after {messages} messages: {errors}\n{}", cluster.logs()),
            };
            survived += u32::from(at_work && output.status.success());
            println!("owner killed {after:?} after {messages} messages were stored (at work: {at_work}): {outcome}");
            tidy(&mut cluster);
        }
    }
    // Between its calls, or while it waits for one that takes effect once however often it is made.
    assert!(survived > 0, "it was never at work without noticing");
}

//! What a path costs for each message, counted and not timed: other load on the machine changes nothing.
//!
//! A test that guards a path calls [`check`] with what was committed. It runs itself again under valgrind, each time for a few
//! messages and for many, and takes the difference: what both do, as starting and preparing, is not in it. Instructions are counted by
//! callgrind, without those of checksums, which depend on the processor, and of the C library, which depend on the processor (its copies)
//! and on what was freed before (its allocator); allocations and copied bytes by DHAT.
//!
//! The counts are of the test profile. They belong to a compiler, a lock file and a C library, so they are compared within
//! a tolerance, both ways: a path that costs less than what is committed has to be committed as well, or the next one that
//! costs more isn't found.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::print_stdout,
    reason = "a harness says what it found and fails its test"
)]

use std::env;
use std::fmt;
use std::process::Command;

use tempfile::TempDir;

/// How many messages the two runs have, whose difference is taken.
const MESSAGES: (u64, u64) = (1_000, 3_000);
/// Tells a test that runs under valgrind how many messages it is to do.
const TOLD: &str = "ALLUVIUM_COSTS_MESSAGES";
/// By which part allocations and copied bytes may differ from what is committed.
const TOLERANCE: f64 = 0.05;
/// The same of instructions: which small functions the compiler copies into their callers differs between builds of the same
/// source at another place, which was seen to be a ninth of them.
const TOLERANCE_INSTRUCTIONS: f64 = 0.2;
/// What a count may differ by that is next to nothing.
const SLACK: f64 = 0.02;
/// In the name of each function that computes a checksum.
const CHECKSUM: &str = "crc";
/// In the name of the C library's file.
const C_LIBRARY: &str = "/libc.so";

/// What a message costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Instructions, without those of checksums and of the C library.
    pub instructions: f64,
    /// Blocks of memory that are allocated.
    pub allocations: f64,
    /// Bytes that are copied by calls for it (`memcpy` and its kin).
    pub copied: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instructions, allocations, copied } = self;
        write!(f, "Cost {{ instructions: {instructions:.0}.0, allocations: {allocations:.2}, copied: {copied:.0}.0 }}")
    }
}

impl Cost {
    fn is_about(&self, other: &Self) -> bool {
        let about = |a: f64, b: f64, part: f64| (a - b).abs() <= SLACK + part * b;
        about(self.instructions, other.instructions, TOLERANCE_INSTRUCTIONS)
            && about(self.allocations, other.allocations, TOLERANCE)
            && about(self.copied, other.copied, TOLERANCE)
    }
}

/// Fails unless the path costs about what is committed. `test` is the name of the test that calls this, as `cargo test` prints it;
/// `prepare` makes what so many messages need, and `path` does its work for as many of them as it is told.
pub fn check<P>(test: &str, committed: Cost, prepare: impl FnOnce(u64) -> P, path: impl FnOnce(P, u64)) {
    if let Ok(messages) = env::var(TOLD) {
        return path(prepare(MESSAGES.1), messages.parse().expect("this file tells a number"));
    }
    let found = measure(test);
    println!("{test}: {found} for each message");
    assert!(found.is_about(&committed), "{test} costs\n  {found} for each message, committed is\n  {committed}");
}

fn measure(test: &str) -> Cost {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("callgrind.out");
    let each = |count: &dyn Fn(u64) -> u64| {
        let (few, many) = (count(MESSAGES.0), count(MESSAGES.1));
        assert!(many > few, "{many} of {} messages is not more than {few} of {}", MESSAGES.1, MESSAGES.0);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let each = (many - few) as f64 / (MESSAGES.1 - MESSAGES.0) as f64;
        each
    };
    let instructions = each(&|messages| {
        let out = format!("--callgrind-out-file={}", file.display());
        valgrind(&["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", &out], test, messages);
        instructions(&std::fs::read_to_string(&file).expect("callgrind wrote it"))
    });
    let dhat = |mode: &str, messages| {
        let told = valgrind(&["--tool=dhat", mode, "--dhat-out-file=/dev/null"], test, messages);
        total(&told).unwrap_or_else(|| panic!("DHAT told no total:\n{told}"))
    };
    let allocations = each(&|messages| dhat("--mode=heap", messages).1);
    let copied = each(&|messages| dhat("--mode=copy", messages).0);
    Cost { instructions, allocations, copied }
}

/// Runs one test of this program again; returns what valgrind said.
fn valgrind(tool: &[&str], test: &str, messages: u64) -> String {
    let mut command = Command::new("valgrind");
    command.args(tool).arg(env::current_exe().expect("a test knows its program"));
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(TOLD, messages.to_string());
    let done = command.output().unwrap_or_else(|error| panic!("valgrind is needed to count ({error}); ./test installs it"));
    let (said, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.contains("1 passed"), "{test} under valgrind:\n{said}\n{told}");
    told.into_owned()
}

/// The bytes and blocks of DHAT's total.
fn total(told: &str) -> Option<(u64, u64)> {
    let line = told.lines().find_map(|line| line.split_once("Total:"))?.1.replace(',', "");
    let mut words = line.split_whitespace();
    let bytes = words.next()?.parse().ok()?;
    Some((bytes, words.nth(2)?.parse().ok()?))
}

/// The instructions of all functions but checksums and those of the C library in callgrind's file.
///
/// Format: <https://valgrind.org/docs/manual/cl-format.html>.
fn instructions(text: &str) -> u64 {
    let (mut c_library, mut checksum) = (false, false);
    let (mut sum, mut checksums) = (0, 0);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(object) = line.strip_prefix("ob=") {
            c_library = object.contains(C_LIBRARY);
        } else if let Some(function) = line.strip_prefix("fn=") {
            checksum = function.contains(CHECKSUM);
        } else if line.starts_with("calls=") {
            // What a callee cost is counted where it is done.
            lines.next();
        } else if line.starts_with(|c: char| c.is_ascii_digit()) {
            let cost: u64 = line.split_whitespace().nth(1).and_then(|cost| cost.parse().ok()).unwrap_or_default();
            if checksum {
                checksums += cost;
            } else if !c_library {
                sum += cost;
            }
        }
    }
    assert!(checksums > 0, "no checksum was computed: the functions that do have other names now");
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dhats_total_is_read() {
        let told = "==7== DHAT, a dynamic heap analysis tool\n==7== \n==7== Total:     1,234,567 bytes in 89 blocks\n==7== At t-gmax: 1 bytes in 2 blocks\n";
        assert_eq!(total(told), Some((1_234_567, 89)));
        assert_eq!(total("==7== nothing"), None);
    }

    #[test]
    fn instructions_are_those_of_functions_themselves_without_checksums_and_the_c_library() {
        let text = "events: Ir\n\nob=/a/libc-test\nfl=a.rs\nfn=first\n10 5\n11 7\ncob=/a/libc.so.6\ncfn=malloc\ncalls=1 20\n11 100\nfi=b.rs\n3 2\n\nfn=crc_of\n20 100\n\nob=/lib/libc.so.6\nfn=__memcpy_avx\n7 50\n\nob=/a/libc-test\nfn=second\n1 4\n\ntotals: 168\n";
        assert_eq!(instructions(text), 18);
    }

    #[test]
    fn a_count_is_compared_both_ways() {
        let cost = |instructions, allocations, copied| Cost { instructions, allocations, copied };
        let committed = cost(1000.0, 2.0, 0.0);
        assert!(cost(1150.0, 1.95, 0.01).is_about(&committed));
        assert!(!cost(1250.0, 2.0, 0.0).is_about(&committed) && !cost(750.0, 2.0, 0.0).is_about(&committed));
        assert!(!cost(1000.0, 3.0, 0.0).is_about(&committed) && !cost(1000.0, 2.0, 1.0).is_about(&committed));
    }
}

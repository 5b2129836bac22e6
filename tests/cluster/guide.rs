//! The guide is true: its configurations are sound, and its commands do what they say.

use std::path::Path;
use std::process::Command;

use alluvium_tests::process::binary;
use alluvium_tests::{Cluster, eventually};

use crate::load::LIMIT;

fn guide() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the root");
    std::fs::read_to_string(root.join("docs/guide/cluster.md")).expect("readable")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_commands_do_what_they_say() {
    let cluster = Cluster::start(3, 2);
    cluster.tool("broker-1", &["topic", "create", "public/default/orders", "--partitions", "4"]).ok();
    cluster.tool("broker-1", &["subscription", "create", "public/default/orders", "audit"]).ok();
    let guide = guide();
    let commands: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("    alluvium ")).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let words = command.split('#').next().unwrap_or_default().split_whitespace();
        let url = cluster.etcd.url();
        // The one etcd that there is stands for the guide's three.
        let args: Vec<&str> = words.map(|word| if word.starts_with("http://etcd-0") { url.as_str() } else { word }).collect();
        let done = async || {
            let output = cluster.tool("broker-1", &args);
            // All is well once all have seen each other.
            (output.code == Some(0) || !command.starts_with("cluster status")).then_some(output)
        };
        let output = eventually(command, LIMIT, done).await;
        assert_eq!(output.code, Some(0), "{command}: {output:?}");
        assert!(!command.starts_with("cluster init") || output.stdout.trim() == cluster.id, "{output:?}");
    }
}

#[test]
fn the_guides_configurations_are_sound() {
    let guide = guide();
    let folder = tempfile::TempDir::new().expect("temporary folders can be made");
    let blocks: Vec<&str> = guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2, "one of a bookie, one of a broker");
    for (role, text) in ["bookie", "broker"].into_iter().zip(blocks) {
        let file = folder.path().join(role);
        std::fs::write(&file, text).expect("writable");
        let checked = Command::new(binary()).args([role, "--check-config", "--config"]).arg(&file).output().expect("it runs");
        assert!(checked.status.success(), "{role}: {}", String::from_utf8_lossy(&checked.stderr));
        std::fs::write(&file, text.replace("name =", "nmae =")).expect("writable");
        let checked = Command::new(binary()).args([role, "--check-config", "--config"]).arg(&file).output().expect("it runs");
        assert_eq!(checked.status.code(), Some(64), "{role}: an unknown key is refused");
    }
}

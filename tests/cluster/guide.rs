//! The guide is true: its configurations are sound.

use std::path::Path;
use std::process::Command;

use alluvium_tests::process::binary;

#[test]
fn the_guides_configurations_are_sound() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the root");
    let guide = std::fs::read_to_string(root.join("docs/guide/cluster.md")).expect("readable");
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

//! Who may import whom. An edge that isn't here is a decision that hasn't been made.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::sources::root;

/// Each crate and what of ours it may use, as drawn in `ARCHITECTURE.md`. Servers import no other server.
const EDGES: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("proto", &["types"]),
    ("runtime", &["types"]),
    ("metadata", &["types", "runtime", "proto"]),
    ("ledger", &["types", "runtime", "proto", "metadata"]),
    ("bookie", &["types", "runtime", "proto", "metadata"]),
    ("broker", &["types", "runtime", "proto", "metadata", "ledger"]),
    ("client", &["types", "runtime", "proto"]),
    ("server", &["types", "runtime", "proto", "metadata", "ledger", "bookie", "broker"]),
    ("bench", &["types", "runtime", "client", "bookie"]),
    ("cli", &["types", "runtime", "proto", "client", "bench", "server"]),
    ("sim", &["types", "runtime", "proto", "metadata", "ledger", "bookie", "broker"]),
    ("tests", &["types", "runtime", "proto", "client", "test-etcd"]),
    ("test-etcd", &[]),
    ("test-costs", &[]),
];

/// What a crate's tests alone may use.
const TEST_EDGES: &[(&str, &str)] = &[("metadata", "test-etcd"), ("bookie", "test-costs"), ("broker", "test-costs")];

#[test]
fn crates_import_only_what_the_architecture_draws() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo answers");
    let allowed: BTreeMap<&str, BTreeSet<&str>> = EDGES.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        let name = package.name.strip_prefix("alluvium-").expect("crates carry the prefix").to_owned();
        let edges = allowed.get(name.as_str()).unwrap_or_else(|| panic!("crate {name} has no line in EDGES"));
        for dependency in &package.dependencies {
            let Some(to) = dependency.name.strip_prefix("alluvium-") else { continue };
            // A crate's own tests may turn on its planted bugs.
            let own = to == name || TEST_EDGES.contains(&(name.as_str(), to));
            let tested = dependency.kind == DependencyKind::Development && own;
            assert!(tested || edges.contains(to), "{name} imports {to}, which ARCHITECTURE.md does not draw");
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), EDGES.len(), "EDGES names crates that are not there");
}

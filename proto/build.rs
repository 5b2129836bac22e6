//! Compiles every `.proto` below this folder, without `protoc`, and keeps the descriptors for reflection.

#![expect(clippy::disallowed_methods, reason = "a build script writes files")]

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

fn protos(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the folder of protos is readable") {
        let path = entry.expect("its entries are readable").path();
        if path.is_dir() {
            protos(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed=alluvium");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut all = Vec::new();
    protos(&root.join("alluvium"), &mut all);
    all.sort();
    let public: Vec<_> = all.iter().filter(|p| !p.components().any(|c| c.as_os_str() == "internal")).collect();
    fs::write(out.join("public.bin"), protox::compile(public, [&root])?.encode_to_vec())?;
    let descriptors = protox::compile(&all, [&root])?;
    tonic_prost_build::configure().bytes(".").skip_protoc_run().compile_fds(descriptors)?;
    Ok(())
}

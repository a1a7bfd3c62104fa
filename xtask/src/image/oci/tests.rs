use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::{Value, json};

use super::*;

const NAME: &str = "sluice.dev/sluice:0.1.0";

fn images() -> Vec<Image> {
    [(Architecture::Amd64, b"amd".to_vec()), (Architecture::Arm64, b"arm".to_vec())]
        .map(|(architecture, binary)| Image { architecture, binary })
        .into()
}

fn archive() -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, NAME, &images()).expect("written");
    bytes
}

/// The files of an archive by name.
fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its content");
        (path, content)
    });
    entries.collect()
}

/// The content that a descriptor stands for, found to be what it says.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let said = descriptor["digest"].as_str().expect("a digest");
    let content = &files[&format!("blobs/{}", said.replace(':', "/"))];
    assert_eq!(digest(content), said);
    assert_eq!(descriptor["size"], content.len());
    content
}

fn document(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
    serde_json::from_slice(blob(files, descriptor)).expect("JSON")
}

#[test]
fn the_same_binaries_make_the_same_bytes() {
    assert_eq!(archive(), archive());
}

#[test]
fn each_architecture_is_found_from_the_root_down_to_its_binary() {
    let files = files(&archive());
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let root: Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
    let named = &root["manifests"][0];
    assert_eq!(named["annotations"]["io.containerd.image.name"], NAME);
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "0.1.0");
    let index = document(&files, named);
    let platforms = [
        json!({"architecture": "amd64", "os": "linux"}),
        json!({"architecture": "arm64", "os": "linux", "variant": "v8"}),
    ];
    for (i, (platform, image)) in platforms.iter().zip(images()).enumerate() {
        assert_eq!(index["manifests"][i]["platform"], *platform);
        let manifest = document(&files, &index["manifests"][i]);
        let config = document(&files, &manifest["config"]);
        assert_eq!(config["architecture"], platform["architecture"]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/sluice"]));
        let mut layer = Vec::new();
        let compressed = blob(&files, &manifest["layers"][0]);
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut layer).expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&layer)]));
        assert_contents(&layer, &image.binary);
    }
}

/// The binary, which root may run, and its other name.
fn assert_contents(layer: &[u8], binary: &[u8]) {
    assert_eq!(files(layer)["sluice"], binary);
    let mut archive = tar::Archive::new(layer);
    let told: Vec<_> = archive
        .entries()
        .expect("an archive")
        .map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let link = entry.link_name().expect("a name").map(|link| link.display().to_string());
            let path = entry.path().expect("a path").display().to_string();
            (path, header.mode().expect("a mode"), header.uid().expect("an owner"), link)
        })
        .collect();
    let link = Some("sluice".to_owned());
    assert_eq!(told, [("sluice".into(), 0o755, 0, None), ("sluice-cni".into(), 0o777, 0, link)]);
}

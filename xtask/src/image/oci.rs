//! An image of one static binary as an OCI archive: a tar of the OCI image layout.
//!
//! Nothing in it depends on when, where or by whom it is written: the same binaries make the same
//! bytes. The documents are three small objects of JSON, written as the OCI image specification 1.1
//! lists their fields; crates with types for all of it are larger than the rest of xtask.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context as _;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::binary::Architecture;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// When the image says that it was made: always the same.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Path of the binary in the image.
pub(super) const BINARY: &str = "sluice";
/// The second name of the binary, under which it is a CNI plugin.
pub(super) const CNI_PLUGIN: &str = "sluice-cni";

/// The image of one architecture.
pub(super) struct Image {
    pub(super) architecture: Architecture,
    /// The static binary.
    pub(super) binary: Vec<u8>,
}

/// Contents by digest: what others refer to.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Takes a content in; what refers to it.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.0.insert(digest, content);
        descriptor
    }
}

/// Writes the archive; the digest of the image's index, by which it can be told from others.
pub(super) fn write(out: &mut impl Write, name: &str, images: &[Image]) -> anyhow::Result<String> {
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(add_image(&mut blobs, image)?);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations(),
    });
    let mut index = blobs.add(INDEX, index.to_string().into_bytes());
    let digest = index["digest"].as_str().context("a descriptor has a digest")?.to_owned();
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    // containerd goes by the first, others by the second.
    index["annotations"] = json!({
        "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag,
    });
    let root = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});
    let mut archive = tar::Builder::new(out);
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    append(&mut archive, "oci-layout", 0o644, layout.as_bytes())?;
    append(&mut archive, "index.json", 0o644, root.to_string().as_bytes())?;
    for (digest, content) in &blobs.0 {
        append(&mut archive, &format!("blobs/{}", digest.replace(':', "/")), 0o644, content)?;
    }
    archive.finish().context("writing the archive")?;
    Ok(digest)
}

/// Adds layer, configuration and manifest of an architecture; what refers to the manifest.
fn add_image(blobs: &mut Blobs, image: &Image) -> anyhow::Result<Value> {
    let layer = layer(&image.binary)?;
    let mut platform = image.architecture.platform();
    let mut config = json!({
        "created": CREATED,
        "config": {
            "User": "0:0",
            // So that `kubectl exec POD -- sluice status` finds it.
            "Env": ["PATH=/"],
            "Entrypoint": [format!("/{BINARY}")],
            "WorkingDir": "/",
            "Labels": annotations(),
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    });
    for (key, value) in &platform {
        config[key] = value.clone();
    }
    let config = blobs.add(CONFIG, config.to_string().into_bytes());
    let layer = blobs.add(LAYER, compress(&layer)?);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        "annotations": annotations(),
    });
    let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
    manifest["platform"] = Value::Object(std::mem::take(&mut platform));
    Ok(manifest)
}

/// What the image says of itself.
fn annotations() -> Value {
    json!({
        "org.opencontainers.image.title": "sluice",
        "org.opencontainers.image.description":
            "Enforces Kubernetes network policy on any node, beside any CNI",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
    })
}

/// The file system: the binary, and its second name.
fn layer(binary: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, BINARY, 0o755, binary)?;
    let mut header = header(EntryType::Symlink, 0o777, 0);
    archive.append_link(&mut header, CNI_PLUGIN, BINARY).context("writing the layer")?;
    archive.into_inner().context("writing the layer")
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> anyhow::Result<()> {
    let mut header = header(EntryType::Regular, mode, content.len() as u64);
    archive.append_data(&mut header, path, content).with_context(|| format!("writing {path}"))
}

/// Root's, and as old as can be.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn compress(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(content).context("compressing the layer")?;
    encoder.finish().context("compressing the layer")
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests;

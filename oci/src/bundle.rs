//! What the bundle of a container says of it: config.json of the OCI runtime specification.

use crate::refusal::Refusal;
use ckpt_restart::regular;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The most of a config.json that is read, in bytes.
const AT_MOST: u64 = 16 << 20;

/// A bundle.
#[derive(Debug, Default)]
pub struct Bundle {
    /// What whoever described the container noted.
    pub annotations: BTreeMap<String, String>,
    /// Its root file system.
    pub root: Option<Root>,
    /// Where something else is mounted in it.
    pub mounts: Vec<PathBuf>,
}

/// The root file system of a container.
#[derive(Debug)]
pub struct Root {
    /// On the host, absolute.
    pub path: PathBuf,
    /// The container may not write to it.
    pub readonly: bool,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    root: Option<ConfigRoot>,
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
}

#[derive(Deserialize)]
struct ConfigRoot {
    path: PathBuf,
    #[serde(default)]
    readonly: bool,
}

#[derive(Deserialize)]
struct Mount {
    destination: PathBuf,
}

impl Bundle {
    /// Reads config.json.
    ///
    /// * `directory`: the bundle.
    ///
    /// # Errors
    /// It is not there, or not what it should be.
    pub fn read(directory: &Path) -> Result<Self, Refusal> {
        let path = directory.join("config.json");
        let refused = |why: String| Refusal::new(path.display(), why);
        let (text, _) = read_at_most(&path, AT_MOST).map_err(|e| refused(e.to_string()))?;
        let config: Config = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
        let root = match config.root {
            None => None,
            Some(root) => Some(Root {
                path: std::path::absolute(directory.join(root.path))
                    .map_err(|e| refused(format!("root.path: {e}")))?,
                readonly: root.readonly,
            }),
        };
        let mounts = config.mounts.unwrap_or_default();
        Ok(Bundle {
            annotations: config.annotations.unwrap_or_default(),
            root,
            mounts: mounts.into_iter().map(|mount| mount.destination).collect(),
        })
    }
}

/// The whole of a regular file, and whose it is.
///
/// * `most`: in bytes.
///
/// # Errors
/// It cannot be read, is no regular file, or larger.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let file = regular::open(path)?;
    let status = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("more than {most} bytes"))),
        false => Ok((bytes, status)),
    }
}

//! What the administrator of the host wants: /etc/ckptadv/oci.toml. It is trusted.

use crate::bundle::read_at_most;
use crate::refusal::Refusal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it is.
const FILE: &str = "/etc/ckptadv/oci.toml";

/// The most of it that is read, in bytes.
const AT_MOST: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Administrator {
    /// The real runtime.
    pub runtime: Option<PathBuf>,
    /// Where libckptadv.so is.
    pub library: Option<PathBuf>,
    /// CKPT_LOG.
    pub log: Option<String>,
    /// CKPT_LOG_FILE.
    pub log_file: Option<String>,
    /// The real runtime for ckptadv-oci-NAME.
    #[serde(default)]
    pub runtimes: BTreeMap<String, PathBuf>,
    /// What annotations may do.
    #[serde(default)]
    pub allow: Allow,
}

/// What annotations may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// The highest number of the runtime's that a container's tasks may get.
    pub highest_descriptor: i32,
    /// Paths are the host's.
    pub host_paths: bool,
}

impl Default for Allow {
    fn default() -> Self {
        Allow {
            highest_descriptor: 2,
            host_paths: false,
        }
    }
}

impl Administrator {
    /// Reads the file; where there is none, nothing is wanted.
    ///
    /// * `named`: another file, which must be there.
    ///
    /// # Errors
    /// It cannot be read, has a mistake, or others could have written it.
    pub fn read(named: Option<&Path>) -> Result<Self, Refusal> {
        let path = named.unwrap_or(Path::new(FILE));
        let refused = |why: String| Refusal::new(path.display(), why);
        let (text, status) = match read_at_most(path, AT_MOST) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Administrator::default());
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        // SAFETY: geteuid takes nothing.
        let own = unsafe { libc::geteuid() };
        if ![0, own].contains(&status.uid()) || status.mode() & 0o022 != 0 {
            return Err(refused(
                "others than the administrator can write to it: chown root, chmod go-w".to_owned(),
            ));
        }
        let text = String::from_utf8(text).map_err(|e| refused(e.to_string()))?;
        let it: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                1 + text[..span.start.min(text.len())].matches('\n').count()
            });
            refused(format!("line {line}: {}", error.message()))
        })?;
        let paths = [&it.runtime, &it.library].into_iter().flatten();
        for path in paths.chain(it.runtimes.values()) {
            if !path.is_absolute() {
                let why = format!("{}: not an absolute path", path.display());
                return Err(refused(why));
            }
        }
        Ok(it)
    }
}

//! The options that criu restore will have, as far as they matter here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    pub shell_job: bool,
    pub tcp_established: bool,
    pub tcp_close: bool,
    pub file_locks: bool,
    pub any_permissions: bool,
    pub root: Option<PathBuf>,
    /// The names of `--inherit-fd`.
    pub inherits: Vec<Vec<u8>>,
}

impl Restore {
    /// Reads them, as getopt_long(3) does; a `criu restore` in front does no harm.
    pub fn of(words: &[OsString]) -> Self {
        /// Letters whose value is the rest of the word or the next word.
        const WITH_VALUE: &[u8] = b"tDorJWLM";
        let mut found = Restore::default();
        let mut words = words.iter().map(|word| word.clone().into_vec());
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix(b"--") {
                let end = long.iter().position(|byte| *byte == b'=');
                let (name, value) = match end {
                    Some(end) => (&long[..end], Some(long[end + 1..].to_vec())),
                    None => (long, None),
                };
                found.long(name, value, &mut words);
            } else if let Some(letters) = word.strip_prefix(b"-") {
                for (at, letter) in letters.iter().enumerate() {
                    match letter {
                        b'j' => found.shell_job = true,
                        b'l' => found.file_locks = true,
                        b'x' => break,
                        letter if WITH_VALUE.contains(letter) => {
                            let rest = letters[at + 1..].to_vec();
                            let value = match rest.is_empty() {
                                true => words.next(),
                                false => Some(rest),
                            };
                            if *letter == b'r' {
                                found.root = value.map(path);
                            }
                            break;
                        }
                        _ => {}
                    }
                }
            }
        }
        found
    }

    fn long(
        &mut self,
        name: &[u8],
        value: Option<Vec<u8>>,
        rest: &mut impl Iterator<Item = Vec<u8>>,
    ) {
        match name {
            b"shell-job" => self.shell_job = true,
            b"tcp-established" => self.tcp_established = true,
            b"tcp-close" => self.tcp_close = true,
            b"file-locks" => self.file_locks = true,
            b"skip-file-rwx-check" => self.any_permissions = true,
            b"root" => self.root = value.or_else(|| rest.next()).map(path),
            b"inherit-fd" => {
                let value = value.or_else(|| rest.next()).unwrap_or_default();
                // fd[N]:NAME
                if let Some(end) = value.windows(2).position(|pair| pair == b"]:") {
                    self.inherits.push(value[end + 2..].to_vec());
                }
            }
            _ => {}
        }
    }

    /// Whether a file of this name is given to it.
    pub fn inherits(&self, name: &[u8]) -> bool {
        self.inherits.iter().any(|given| given == name)
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Restore {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        Restore::of(&words)
    }

    #[test]
    fn options_are_read_as_criu_reads_them() {
        let all = of(
            "criu restore -D images -dj --tcp-established --inherit-fd fd[1]:pipe:[77] \
                      --inherit-fd=fd[2]:tmp/log -l --root /srv/box",
        );
        assert!(all.shell_job && all.tcp_established && all.file_locks && !all.tcp_close);
        assert!(all.inherits(b"pipe:[77]") && all.inherits(b"tmp/log"));
        assert_eq!(all.root, Some("/srv/box".into()));
    }

    #[test]
    fn values_are_no_options() {
        assert_eq!(
            of("-o -j -Dlj -D --file-locks --root=/x -vvvv").root,
            Some("/x".into())
        );
        let none = Restore {
            root: Some("/x".into()),
            ..Restore::default()
        };
        assert_eq!(of("-o -j -Dlj -D --file-locks --root=/x -vvvv"), none);
        assert_eq!(of("-r/x"), none);
    }
}

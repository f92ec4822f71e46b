//! The advice in a container's annotations, judged.
//!
//! Whoever may describe a container writes them, so they are not trusted: they can do no more to the host than a
//! container can. What they ask for is read as the library will read it, and refused as a whole where any of it goes
//! further. That a path stays in the container's root is seen to by the library, when it opens it (CKPT_SOURCE_ROOT);
//! here it is only told early what could not be meant.

use crate::administrator::Allow;
use crate::bundle::{Bundle, Root};
use crate::refusal::Refusal;
use ckpt_image::advice::{Action, Item, Source, parse_list};
use ckpt_restart::settings::strictness;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// How the names of ours begin.
const OURS: &str = "org.ckptadv.";

/// The most that one may be, in bytes.
const AT_MOST: usize = 16 << 10;

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The container is dumped.
    Checkpoint,
    /// It is restored.
    Restore,
}

/// The variables of the library that annotations ask for; none where they ask for nothing.
///
/// # Errors
/// They ask for what they may not have, or are not written as they must be.
pub fn judge(
    bundle: &Bundle,
    moment: Moment,
    allow: &Allow,
) -> Result<Vec<(&'static str, OsString)>, Refusal> {
    let mut variables = Vec::new();
    let ours = bundle.annotations.iter();
    for (name, value) in ours.filter(|(name, _)| name.starts_with(OURS)) {
        let kind = Annotation::named(&name[OURS.len()..]).ok_or_else(|| {
            Refusal::new(
                name,
                "no annotation of this name: known are preserve, ignore, substitute and strict \
                 behind org.ckptadv.",
            )
        })?;
        if value.is_empty() {
            continue;
        }
        if value.len() > AT_MOST {
            return Err(Refusal::new(name, format!("more than {AT_MOST} bytes")));
        }
        if value.contains('\0') {
            return Err(Refusal::new(name, "a zero byte"));
        }
        let items = kind.items(name, value)?;
        for item in &items {
            judge_number(name, item, allow)?;
        }
        if kind == Annotation::Substitute {
            if moment == Moment::Checkpoint {
                continue;
            }
            if !allow.host_paths {
                judge_paths(name, &items, bundle)?;
                let root = bundle.root.as_ref();
                variables.extend(root.map(|root| ("CKPT_SOURCE_ROOT", root.path.clone().into())));
            }
        }
        variables.push((kind.variable(), value.into()));
    }
    Ok(variables)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Annotation {
    Preserve,
    Ignore,
    Substitute,
    Strict,
}

impl Annotation {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "preserve" => Annotation::Preserve,
            "ignore" => Annotation::Ignore,
            "substitute" => Annotation::Substitute,
            "strict" => Annotation::Strict,
            _ => return None,
        })
    }

    fn variable(self) -> &'static str {
        match self {
            Annotation::Preserve => "CKPT_PRESERVE",
            Annotation::Ignore => "CKPT_IGNORE",
            Annotation::Substitute => "CKPT_SUBSTITUTE",
            Annotation::Strict => "CKPT_STRICT",
        }
    }

    /// The items of its value.
    ///
    /// # Errors
    /// It is not written as it must be.
    fn items(self, name: &str, value: &str) -> Result<Vec<Item>, Refusal> {
        let action = match self {
            Annotation::Preserve => Action::Preserve,
            Annotation::Ignore => Action::Ignore,
            Annotation::Substitute => Action::Substitute(Source::Descriptor(0)),
            Annotation::Strict => {
                return match strictness(name, value.as_bytes()) {
                    Ok(_) => Ok(Vec::new()),
                    Err(error) => Err(Refusal(error.to_string())),
                };
            }
        };
        // Which numbers there can be is for criu's own limit to say.
        parse_list(name, value.as_bytes(), &action, u64::MAX)
            .map_err(|error| Refusal(error.to_string()))
    }
}

/// Of the runtime's descriptors, tasks get none that is not theirs to have.
fn judge_number(name: &str, item: &Item, allow: &Allow) -> Result<(), Refusal> {
    let highest = match &item.action {
        Action::Ignore | Action::Substitute(Source::Path(_)) => return Ok(()),
        Action::Substitute(Source::Descriptor(number)) => *number,
        Action::Preserve | Action::Add => item.target.numbers().map_or(i32::MAX, |(_, to)| to),
    };
    if highest <= allow.highest_descriptor {
        return Ok(());
    }
    Err(Refusal::new(
        name,
        format!(
            "\"{}\": an annotation may ask for the runtime's descriptors up to {} only \
             (highest_descriptor in /etc/ckptadv/oci.toml)",
            item.text, allow.highest_descriptor
        ),
    ))
}

/// Paths as source can be what is meant, as far as is seen from here.
fn judge_paths(name: &str, items: &[Item], bundle: &Bundle) -> Result<(), Refusal> {
    let refused = |item: &Item, why: &str| {
        Err(Refusal::new(
            name,
            format!("\"{}\": {why}: give a number", item.text),
        ))
    };
    for item in items {
        let Action::Substitute(Source::Path(path)) = &item.action else {
            continue;
        };
        let Some(root) = &bundle.root else {
            return refused(item, "the container has no root of its own");
        };
        if root.readonly {
            return refused(item, "the container's root is read-only");
        }
        let path = Path::new(OsStr::from_bytes(path));
        let places = [inside(path), where_it_leads(root, path)];
        let hidden = |mount: &&PathBuf| {
            let mount = inside(mount);
            let mut places = places.iter();
            places.any(|place| mount.as_os_str() != "/" && place.starts_with(&mount))
        };
        if let Some(mount) = bundle.mounts.iter().find(hidden) {
            let why = format!(
                "it lies in {}, which is mounted in the container and no part of its root",
                mount.display()
            );
            return refused(item, &why);
        }
    }
    Ok(())
}

/// A path as it would be were there no links.
fn inside(path: &Path) -> PathBuf {
    let mut place = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => {
                place.pop();
            }
            _ => {}
        }
    }
    place
}

/// Where links that are there now lead, within the root. What is not there is as it is written.
fn where_it_leads(root: &Root, path: &Path) -> PathBuf {
    let mut place = PathBuf::from("/");
    let mut rest: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            place.pop();
            continue;
        }
        let next = place.join(&part);
        let on_host = root.path.join(next.strip_prefix("/").unwrap_or(&next));
        match on_host.read_link() {
            Ok(to) if links < 40 => {
                links += 1;
                if to.is_absolute() {
                    place = PathBuf::from("/");
                }
                rest.extend(parts(&to));
            }
            _ => place = next,
        }
    }
    place
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(annotations: &[(&str, &str)]) -> Bundle {
        Bundle {
            annotations: annotations
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            root: Some(Root {
                path: "/bundle/rootfs".into(),
                readonly: false,
            }),
            mounts: ["/proc", "/data", "/etc/hosts", "/"]
                .map(PathBuf::from)
                .into(),
        }
    }

    fn restore(annotations: &[(&str, &str)]) -> Result<Vec<(&'static str, OsString)>, Refusal> {
        judge(&bundle(annotations), Moment::Restore, &Allow::default())
    }

    #[test]
    fn hostile_annotations_are_refused() {
        let long = "1,".repeat(AT_MOST);
        #[rustfmt::skip]
        let table = [
            // Numbers of the runtime's.
            ("preserve", "3", "up to 2"),
            ("preserve", "0,1,3", "up to 2"),
            ("preserve", "0-3", "up to 2"),
            ("preserve", "0-", "up to 2"),
            ("preserve", "2147483647", "up to 2"),
            ("preserve", "1-2147483647", "up to 2"),
            ("preserve", "root:3", "up to 2"),
            ("preserve", "*:3", "up to 2"),
            ("preserve", "1:7-9", "up to 2"),
            ("preserve", " 3 ", "up to 2"),
            ("preserve", "003", "up to 2"),
            ("substitute", "7=3", "up to 2"),
            ("substitute", "7=1,8=3", "up to 2"),
            ("substitute", "type=tty=3", "up to 2"),
            ("substitute", "id=3=5", "up to 2"),
            ("substitute", "/var/**=9", "up to 2"),
            ("substitute", "*:1=03", "up to 2"),
            ("substitute", "7=4294967296", "no descriptor number is this large"),
            ("preserve", "4294967297", "no descriptor number is this large"),
            ("preserve", "18446744073709551617", "no descriptor number is this large"),
            ("preserve", "-1", "expected"),
            ("preserve", "1\n3", "expected a comma"),
            ("preserve", "/etc/shadow", "only numbers"),
            ("preserve", "type=unix", "only numbers"),
            ("preserve", "1=3", "expected a comma"),
            // Paths that cannot be meant.
            ("substitute", "7=etc/shadow", "expected =SOURCE"),
            ("substitute", "7=../x", "expected =SOURCE"),
            ("substitute", "7=/proc/1/root/etc/shadow", "lies in /proc"),
            ("substitute", "7=/proc", "lies in /proc"),
            ("substitute", "7=/../../proc/self/fd/3", "lies in /proc"),
            ("substitute", "7=//proc/self/fd/3", "lies in /proc"),
            ("substitute", "7=/./proc/self/fd/3", "lies in /proc"),
            ("substitute", "7=/usr/../proc/self/fd/3", "lies in /proc"),
            ("substitute", "7=/data/x", "lies in /data"),
            ("substitute", "7=/etc/hosts", "lies in /etc/hosts"),
            // Other variables, and other lines.
            ("ignore", "7\nCKPT_PRESERVE=3", "expected a comma"),
            ("strict", "strict\nLD_PRELOAD=/tmp/x.so", "expected best-effort"),
            ("strict", "STRICT", "expected best-effort"),
            ("log", "trace", "no annotation of this name"),
            ("log_file", "/etc/cron.d/x", "no annotation of this name"),
            ("report", "/etc/x", "no annotation of this name"),
            ("accept", "3", "no annotation of this name"),
            ("dry_run", "1", "no annotation of this name"),
            ("source_root", "/", "no annotation of this name"),
            ("restart_nr", "1", "no annotation of this name"),
            ("Preserve", "1", "no annotation of this name"),
            ("preserve ", "1", "no annotation of this name"),
            ("preserve\0", "1", "no annotation of this name"),
            ("", "", "no annotation of this name"),
            // Sizes, and what no variable can have.
            ("ignore", "7\0", "a zero byte"),
            ("ignore", &long, "more than"),
        ];
        for (name, value, why) in table {
            let name = format!("{OURS}{name}");
            let refused = restore(&[(&name, value)]).expect_err(value);
            assert!(refused.0.contains(why), "{name}={value}: {refused:?}");
            assert!(refused.0.starts_with(&name), "{refused:?}");
            // Where there is more, too.
            let more = [("org.ckptadv.ignore", "5"), (&name, value)];
            assert!(restore(&more).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn others_are_handed_on_as_they_are() {
        #[rustfmt::skip]
        let table = [
            ("preserve", "1", "CKPT_PRESERVE"),
            ("preserve", "0-2", "CKPT_PRESERVE"),
            ("preserve", "root:1,*:2", "CKPT_PRESERVE"),
            ("ignore", "0-", "CKPT_IGNORE"),
            ("ignore", "7,/dev/**,type=tty", "CKPT_IGNORE"),
            ("substitute", "7=1,900=2,/var/**=0", "CKPT_SUBSTITUTE"),
            ("substitute", "7=/log", "CKPT_SUBSTITUTE"),
            ("substitute", "7=/processes/log", "CKPT_SUBSTITUTE"),
            ("substitute", "/data/*=/log", "CKPT_SUBSTITUTE"),
            ("strict", "strict", "CKPT_STRICT"),
        ];
        for (name, value, variable) in table {
            let name = format!("{OURS}{name}");
            let mut variables = restore(&[(&name, value)]).expect(value);
            if name.ends_with("substitute") {
                let root = variables.remove(0);
                assert_eq!(root, ("CKPT_SOURCE_ROOT", "/bundle/rootfs".into()));
            }
            assert_eq!(variables, [(variable, value.into())], "{name}={value}");
        }
        let foreign = [
            ("org.ckptadv", "3"),
            ("CKPT_PRESERVE", "3"),
            ("io.x.org.ckptadv.preserve", "3"),
        ];
        assert_eq!(restore(&foreign), Ok(Vec::new()));
        let empty = [("org.ckptadv.preserve", ""), ("org.ckptadv.substitute", "")];
        assert_eq!(restore(&empty), Ok(Vec::new()));
    }

    #[test]
    fn a_checkpoint_gets_no_substitutes_and_refuses_what_a_restore_would() {
        let dump = |annotations: &[(&str, &str)]| {
            judge(&bundle(annotations), Moment::Checkpoint, &Allow::default())
        };
        let both = [
            ("org.ckptadv.substitute", "7=/log"),
            ("org.ckptadv.ignore", "7"),
        ];
        assert_eq!(dump(&both), Ok(vec![("CKPT_IGNORE", "7".into())]));
        assert!(dump(&[("org.ckptadv.substitute", "7=3")]).is_err());
        assert!(dump(&[("org.ckptadv.substitute", "7")]).is_err());
    }

    #[test]
    fn the_root_must_be_one_that_may_be_written_to() {
        let substitute = |path: &str, root: Option<Root>| {
            let mut bundle = bundle(&[("org.ckptadv.substitute", path)]);
            bundle.root = root;
            judge(&bundle, Moment::Restore, &Allow::default())
        };
        let readonly = || {
            Some(Root {
                path: "/b".into(),
                readonly: true,
            })
        };
        assert!(
            substitute("7=/log", readonly())
                .expect_err("refused")
                .0
                .contains("read-only")
        );
        assert!(
            substitute("7=/log", None)
                .expect_err("refused")
                .0
                .contains("no root")
        );
        assert!(substitute("7=1", readonly()).is_ok());
        let expected = vec![("CKPT_SUBSTITUTE", "7=1".into())];
        assert_eq!(substitute("7=1", None), Ok(expected));
    }

    #[test]
    fn links_into_a_mount_are_followed() {
        let place = std::env::temp_dir().join(format!("ckptadv-oci-links-{}", std::process::id()));
        std::fs::create_dir_all(place.join("var")).expect("a directory");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, place.join(name)).expect("a link");
        };
        link("/data", "var/log");
        link("../data", "var/up");
        link("../../../../var/log", "via");
        link("loop", "loop");
        for (path, hidden) in [
            ("/var/log/x", true),
            ("/var/up/x", true),
            ("/via/x", true),
            ("/var/log/../data/x", true),
            ("/var/../var/log/../log/x", false),
            ("/var/x", false),
            ("/loop/x", false),
        ] {
            let mut bundle = bundle(&[("org.ckptadv.substitute", &format!("7={path}"))]);
            bundle.root = Some(Root {
                path: place.clone(),
                readonly: false,
            });
            let judged = judge(&bundle, Moment::Restore, &Allow::default());
            assert_eq!(judged.is_err(), hidden, "{path}: {judged:?}");
        }
        std::fs::remove_dir_all(place).expect("it goes");
    }

    #[test]
    fn the_administrator_may_allow_more() {
        let allow = Allow {
            highest_descriptor: 9,
            host_paths: true,
        };
        let annotations = [
            ("org.ckptadv.preserve", "9"),
            ("org.ckptadv.substitute", "7=/data/x,8=9"),
        ];
        let judged = judge(&bundle(&annotations), Moment::Restore, &allow);
        let expected = vec![
            ("CKPT_PRESERVE", "9".into()),
            ("CKPT_SUBSTITUTE", "7=/data/x,8=9".into()),
        ];
        assert_eq!(judged, Ok(expected));
        let more = bundle(&[("org.ckptadv.preserve", "10")]);
        assert!(judge(&more, Moment::Restore, &allow).is_err());
    }
}

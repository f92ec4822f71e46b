//! The options that give advice: the same words as the CKPT_ variables.

use ckpt_image::Error;
use ckpt_image::advice::{Action, Advice, Source, Strictness, parse_list};
use ckpt_restart::caller;
use ckpt_restart::request::{Naming, Request, Sources};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

/// The exit status where a restart is, or would be, refused.
pub const REFUSED: u8 = 121;

/// Advice on the command line.
#[derive(clap::Args)]
pub struct Options {
    /// Numbers that come from the restart program, whatever the image has
    #[arg(long, value_name = "LIST")]
    preserve: Option<OsString>,
    /// Descriptors of the image to drop
    #[arg(long, value_name = "LIST")]
    ignore: Option<OsString>,
    /// TARGET=SOURCE: descriptors of the image to replace
    #[arg(long, value_name = "LIST")]
    substitute: Option<OsString>,
    /// Refuse if an item selects nothing
    #[arg(long)]
    strict: bool,
}

impl Options {
    /// Whether none of them is given.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.preserve, &self.ignore, &self.substitute];
        lists.iter().all(|list| list.is_none()) && !self.strict
    }

    /// The advice that they give.
    ///
    /// # Errors
    /// [`Error::Syntax`].
    pub fn advice(&self) -> Result<Advice, Error> {
        let limit = caller::descriptor_limit();
        let stand_in = Action::Substitute(Source::Descriptor(0));
        let lists = [
            ("--preserve", &self.preserve, Action::Preserve),
            ("--substitute", &self.substitute, stand_in),
            ("--ignore", &self.ignore, Action::Ignore),
        ];
        let mut advice = Advice::default();
        for (option, list, action) in lists {
            if let Some(list) = list {
                let items = parse_list(option, list.as_bytes(), &action, limit)?;
                advice.items.extend(items);
            }
        }
        if self.strict {
            advice.strictness = Strictness::Strict;
        }
        Ok(advice)
    }

    /// The same for the library, as variables.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let strict = self.strict.then(|| OsString::from("strict"));
        let all = [
            ("CKPT_PRESERVE", self.preserve.clone()),
            ("CKPT_IGNORE", self.ignore.clone()),
            ("CKPT_SUBSTITUTE", self.substitute.clone()),
            ("CKPT_STRICT", strict),
        ];
        let set = all
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        set.collect()
    }

    /// The advice, bound to what is open here, for a Linux-CR image.
    ///
    /// # Errors
    /// As [`Options::advice`], and what is refused without having seen the image.
    pub fn request(&self, image: &File, naming: Naming) -> Result<Request, ckpt_restart::Error> {
        let advice = self.advice()?;
        let image = image.as_raw_fd();
        let open = caller::open_numbers();
        let open = open.map_err(|e| ckpt_restart::Error::system("/proc/self/fd", e))?;
        let sources: Sources = open
            .into_iter()
            .filter(|&number| number != image)
            .map(|number| (number, number))
            .collect();
        Request::new(&advice, sources, naming, Some(image))
    }
}

//! Advice bound to what the caller has, and checked against an image before
//! anything is restored.

use crate::caller::{self, INHERITED};
use crate::error::Error;
use crate::paths::{self, Holding, Looking, Making, Own};
use crate::relay::{self, Relay};
use crate::reserved;
use crate::stream::{self, CHUNK, LITTLE, WORTH_PASSING};
use ckpt_image::advice::Advice;
use ckpt_image::caller::{Caller, Opening, Paths};
use ckpt_image::linux_cr::delivery::{Delivery, Medium};
use ckpt_image::linux_cr::rewrite::Rewriter;
use ckpt_image::linux_cr::survey::{Foreknowledge, Surveyor};
use ckpt_image::plan::Planner;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Where the caller's numbers are: number to descriptor, where it still is or
/// was copied to.
pub type Sources = BTreeMap<i32, i32>;

/// Copies of the caller's descriptors go here or above, out of the way of what a
/// restart program opens.
pub const ABOVE: i32 = 512;

/// How a restarting task will find a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Here and now: as the descriptor that it is in this process, whose children
    /// the tasks will be.
    Inherited,
    /// The same, where the tasks have inherited already, and are given nothing more.
    Had,
    /// Later, and elsewhere: by the number that the restart program will have.
    Numbered,
}

/// One request, for one image.
#[derive(Debug)]
pub struct Request {
    advice: Advice,
    caller: Caller,
    sources: Sources,
    /// Those of the sources that were opened in place of the image.
    _instead: Vec<OwnedFd>,
    foreknowledge: Option<Foreknowledge>,
    /// The tasks' pids, before the restart program gives them new ones.
    pids: OnceLock<Vec<i32>>,
    /// What is to be opened by path, once the image has been checked.
    openings: Vec<Opening>,
    /// The same, open.
    holding: Option<Holding>,
    checked: bool,
    /// The image is restarted by this process.
    delivers: bool,
    medium: Option<Medium>,
    relays: Mutex<Vec<Relay>>,
}

impl Request {
    /// Binds advice to the caller's descriptors.
    ///
    /// * `sources`: the numbers that advice may want.
    /// * `image`: the descriptor on which the image comes in. A source that is
    ///   the same file gives way to the controlling terminal or /dev/null, so
    ///   that the program does not come back reading its own image.
    ///
    /// # Errors
    /// [`Error::Rootless`] where tasks cannot inherit; what the planner refuses without
    /// having seen the image; what the system says where a pipe needs a fifo in its
    /// stead.
    pub fn new(
        advice: &Advice,
        mut sources: Sources,
        naming: Naming,
        image: Option<i32>,
    ) -> Result<Self, Error> {
        if naming != Naming::Numbered && !sources.is_empty() && !Path::new(INHERITED).exists() {
            return Err(Error::Rootless {
                root: "this root directory".to_owned(),
            });
        }
        let image = image.and_then(|fd| caller::identity(fd).ok());
        let mut instead = Vec::new();
        let mut bound = Caller {
            limit: Some(caller::descriptor_limit()),
            ..Caller::default()
        };
        for (&number, fd) in &mut sources {
            if image.is_some() && caller::identity(*fd).ok() == image {
                let mut file = caller::instead_of_the_image();
                crate::info!(
                    "descriptor {number} is the image itself: the restarted program gets {} there",
                    file.link
                );
                if naming != Naming::Inherited {
                    file.description = number;
                    bound.files.insert(number, file);
                    continue;
                }
                let opened = caller::open_instead_of_the_image(ABOVE).map_err(|e| {
                    let link = file.link;
                    Error::system(
                        format!(
                            "descriptor {number} is the image itself, and {link} cannot be given"
                        ),
                        e,
                    )
                })?;
                *fd = opened.as_raw_fd();
                reserved::reserve(*fd);
                instead.push(opened);
            }
            let fd = *fd;
            let name = match naming {
                Naming::Inherited | Naming::Had => fd,
                Naming::Numbered => number,
            };
            let name = format!("{INHERITED}{name}").into_bytes();
            let mut file = caller::examine(fd, name)
                .map_err(|e| Error::system(format!("descriptor {number}"), e))?;
            if fd != number {
                // Of the copy only: what the program was started with came through exec(2).
                file.close_on_exec = false;
            }
            if naming == Naming::Numbered && number == 0 && file.not_given.is_none() {
                file.not_given = Some(
                    "when the image is restarted, its pipe is on 0 in every task: preserve 0 with \
                     libckptadv.so at the restart instead"
                        .to_owned(),
                );
            }
            bound.files.insert(number, file);
        }
        caller::group(&mut bound, |number| sources[&number]);
        let relays = match naming {
            Naming::Inherited => relay::between(&mut bound, &sources, ABOVE)?,
            Naming::Had | Naming::Numbered => Vec::new(),
        };
        let request = Request {
            advice: advice.clone(),
            caller: bound,
            sources,
            _instead: instead,
            foreknowledge: None,
            pids: OnceLock::new(),
            openings: Vec::new(),
            holding: None,
            checked: false,
            delivers: naming != Naming::Numbered,
            medium: None,
            relays: Mutex::new(relays),
        };
        request.planner(Box::new(Looking))?;
        Ok(request)
    }

    fn planner(&self, paths: Box<dyn Paths>) -> Result<Planner, Error> {
        Ok(Planner::new(&self.advice, self.caller.clone(), false)?.with_paths(paths))
    }

    /// A descriptor that is added shall be close-on-exec, since the caller's own is. (A
    /// copy of it does not tell.)
    pub fn closes_on_exec(&mut self, number: i32) {
        if let Some(file) = self.caller.files.get_mut(&number) {
            file.close_on_exec = true;
        }
    }

    /// Starts the processes that copy between the caller's pipes and the fifos that
    /// tasks get in their stead. Called before any task exists.
    ///
    /// # Errors
    /// Where a descriptor or a process is lacking.
    pub fn relay(&mut self) -> Result<(), Error> {
        let relays = self
            .relays
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for relay in relays {
            relay
                .start(ABOVE)
                .map_err(|e| Error::system("no process that copies to and from a pipe", e))?;
        }
        Ok(())
    }

    /// The restart is over, or will not be: tasks have what they need, and nothing is
    /// kept for them any more.
    pub fn decided(&self) {
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        for relay in relays.drain(..) {
            relay.decided();
        }
        reserved::release_all();
    }

    /// Whether tasks open files as descriptors that they inherit.
    pub fn gives_inherited(&self) -> bool {
        self.inherited().next().is_some()
    }

    /// The names of those.
    fn inherited(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.caller.files.values();
        let given = files.map(|file| PathBuf::from(OsStr::from_bytes(&file.name)));
        let held = self.holding.iter().flat_map(|holding| holding.0.iter());
        let held = held.map(|held| format!("{INHERITED}{}", held.as_raw_fd()).into());
        given.filter(|name| name.starts_with(INHERITED)).chain(held)
    }

    /// Whether tasks below a root directory can find what they are given. An empty
    /// /proc there will do: it may be mounted later.
    ///
    /// # Errors
    /// [`Error::Rootless`] where they cannot.
    pub fn can_be_rooted(&self, root: &Path) -> Result<(), Error> {
        if self.gives_inherited() && !root.join("proc").is_dir() {
            return Err(Error::Rootless {
                root: root.display().to_string(),
            });
        }
        Ok(())
    }

    /// Whether tasks can open what they are given, now that they are about to. Until the
    /// restart is decided none of them waits for a relay.
    ///
    /// # Errors
    /// [`Error::Rootless`] where they do not find it; EPIPE where a relay was killed;
    /// where no descriptor is left.
    pub fn can_be_opened(&self) -> Result<(), Error> {
        if !self.inherited().all(|name| name.exists()) {
            return Err(Error::Rootless {
                root: "the tasks' root directory".to_owned(),
            });
        }
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        for relay in relays.iter_mut() {
            let held = relay.hold();
            held.map_err(|e| Error::system("no descriptor for a relay's fifo", e))?;
        }
        if relays.iter().any(Relay::is_gone) {
            return Err(Error::system(
                "the process that copies to and from a pipe was killed: restart again",
                io::Error::from_raw_os_error(libc::EPIPE),
            ));
        }
        Ok(())
    }

    /// A rewriter for the image.
    ///
    /// * `makes`: files that advice names by path are opened, and made if need be,
    ///   when their place in the image is reached. Those that
    ///   [`Request::hold`] has opened are taken in any case.
    ///
    /// # Errors
    /// As for [`Request::new`].
    pub fn rewriter(&self, makes: bool) -> Result<Rewriter, Error> {
        let paths: Box<dyn Paths> = match &self.holding {
            Some(holding) => Box::new(holding.clone()),
            None if makes => Box::new(Making::default()),
            None => Box::new(Looking),
        };
        let sources = self.sources.clone();
        let offsets = Box::new(move |number: i32| {
            let fd = sources.get(&number)?;
            caller::position(*fd).ok()
        });
        let mut rewriter = Rewriter::new(self.planner(paths)?, offsets);
        if let Some(known) = &self.foreknowledge {
            rewriter.foresee(known.clone());
        }
        if let Some(pids) = self.pids.get() {
            rewriter.name_tasks(pids.clone());
        }
        Ok(rewriter)
    }

    /// Tells the tasks' pids, in the order of the image's tree. Advice names tasks
    /// by them, also after a restart program has written new ones into the tree.
    pub fn name_tasks(&self, pids: Vec<i32>) {
        let _ = self.pids.set(pids);
    }

    /// Whether [`Request::check`] has seen the image.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// How the image has to reach the kernel, where that is known.
    pub fn medium(&self) -> Option<Medium> {
        self.medium
    }

    /// Reads an image that is a regular file in advance, leaving its offset
    /// where it is, and plans the whole of it. Memory pages are skipped.
    ///
    /// * `start`: where in the file the image begins, in bytes.
    ///
    /// Gives the rewriter, for its changes and warnings.
    ///
    /// # Errors
    /// Every refusal that the image and the advice call for.
    pub fn check(&mut self, image: BorrowedFd<'_>, start: u64) -> Result<Rewriter, Error> {
        let file = image
            .try_clone_to_owned()
            .map(File::from)
            .map_err(|e| Error::system("cannot check the image", e))?;
        let mut surveyor = Surveyor::default();
        scan(&file, start, &mut surveyor)?;
        let (survey, _) = surveyor.finish()?;
        self.foreknowledge = Some(survey.foreknowledge());
        self.name_tasks(survey.tasks.iter().map(|task| task.pid).collect());
        let medium = stream::medium_for(survey.queued.values().copied().max().unwrap_or(0));
        let alone = survey.is_one_process() && survey.tables.len() <= 1;
        // The rewriter makes one of its own.
        drop(survey);
        if !alone {
            // What all of them drop is known once every table has been planned.
            let mut planned = Through {
                rewriter: self.rewriter(false)?,
                reader: None::<Delivery>,
            };
            scan(&file, start, &mut planned)?;
            self.foreknowledge = Some(planned.rewriter.foreknowledge());
        }
        let mut through = Through {
            rewriter: self.rewriter(false)?,
            reader: self.delivers.then(|| Delivery::new(medium)),
        };
        scan(&file, start, &mut through)?;
        through.rewriter.finish()?;
        if let Some(known) = &mut self.foreknowledge {
            known.unchanged = through.rewriter.unchanged_since();
        }
        self.openings = through.rewriter.openings();
        self.medium = Some(medium);
        self.checked = true;
        Ok(through.rewriter)
    }

    /// Opens what a checked image needs by path, before there are tasks, which
    /// inherit it.
    ///
    /// * `least`: the numbers that it gets, or above, if there is room.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn hold(&mut self, least: i32) -> Result<(), Error> {
        let held = paths::hold(&self.openings, &Own, least)?;
        held.iter()
            .for_each(|held| reserved::reserve(held.as_raw_fd()));
        self.holding = Some(Holding(Arc::new(held)));
        Ok(())
    }
}

/// Whoever reads an image and does not look at its pages.
pub trait Reader {
    /// More of the image.
    ///
    /// # Errors
    /// What is wrong with it.
    fn feed(&mut self, input: &[u8]) -> Result<(), ckpt_image::Error>;
    /// Bytes that come next and need not be read.
    fn passing(&self) -> u64;
    /// So many were skipped.
    fn passed(&mut self, bytes: u64);
}

impl Reader for Surveyor {
    fn feed(&mut self, input: &[u8]) -> Result<(), ckpt_image::Error> {
        Surveyor::feed(self, input)
    }
    fn passing(&self) -> u64 {
        Surveyor::passing(self)
    }
    fn passed(&mut self, bytes: u64) {
        Surveyor::passed(self, bytes);
    }
}

/// What reaches the kernel, where the image is restarted here.
impl Reader for Option<Delivery> {
    fn feed(&mut self, input: &[u8]) -> Result<(), ckpt_image::Error> {
        if let Some(delivery) = self {
            delivery.feed(input)?;
            delivery.taken();
        }
        Ok(())
    }
    fn passing(&self) -> u64 {
        u64::MAX
    }
    fn passed(&mut self, bytes: u64) {
        if let Some(delivery) = self {
            delivery.passed(bytes);
        }
    }
}

/// Reads what a rewriter makes of an image.
pub struct Through<R> {
    /// Who gets the image.
    pub rewriter: Rewriter,
    /// Who gets what that makes of it.
    pub reader: R,
}

impl<R: Reader> Reader for Through<R> {
    fn feed(&mut self, input: &[u8]) -> Result<(), ckpt_image::Error> {
        self.rewriter.feed(input)?;
        self.reader.feed(self.rewriter.output())?;
        self.rewriter.output().clear();
        Ok(())
    }
    fn passing(&self) -> u64 {
        self.rewriter.passing().min(self.reader.passing())
    }
    fn passed(&mut self, bytes: u64) {
        self.rewriter.passed(bytes);
        self.reader.passed(bytes);
    }
}

/// Reads an image out of a regular file, without its pages and without moving
/// the file's offset.
///
/// # Errors
/// What is wrong with the image, or with reading it.
pub fn scan(file: &File, start: u64, reader: &mut dyn Reader) -> Result<(), Error> {
    let size = file
        .metadata()
        .map_err(|e| Error::system("cannot check the image", e))?
        .len();
    let mut buffer = vec![0; CHUNK];
    let mut next = buffer.len();
    let mut at = start;
    while at < size {
        let skip = reader.passing().min(size - at);
        if skip > WORTH_PASSING as u64 {
            reader.passed(skip);
            at += skip;
            // Pages follow pages, a few records apart.
            next = LITTLE;
            continue;
        }
        let n = match file.read_at(&mut buffer[..next], at) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::system("cannot check the image", e)),
        };
        reader.feed(&buffer[..n])?;
        at += n as u64;
        next = buffer.len();
    }
    Ok(())
}

/// Whether a descriptor is a regular file, and where its offset stands.
pub fn regular_at(image: BorrowedFd<'_>) -> Option<u64> {
    let file = image.try_clone_to_owned().map(File::from).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    u64::try_from(caller::position(file.as_raw_fd()).ok()?).ok()
}

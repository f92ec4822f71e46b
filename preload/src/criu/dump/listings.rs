//! Listings of /proc/PID/fd without what is left out.

use super::{DUMP, REQUEST};
use ckpt_restart::errno;
use libc::{DIR, c_int, dirent64};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers that a directory stream is not to give, by its address. This has a lock of
/// its own, since looking at the tasks lists directories, too.
static LISTINGS: Mutex<BTreeMap<usize, BTreeSet<i32>>> = Mutex::new(BTreeMap::new());
/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// fdopendir(3), after it.
pub fn on_fdopendir(fd: c_int, listing: *mut DIR) -> *mut DIR {
    if listing.is_null() || REQUEST.get().is_none() {
        return listing;
    }
    if let Some(hidden) = errno::keeping(|| hidden(fd)) {
        let mut listings = LISTINGS.lock();
        listings.insert(listing.addr(), hidden);
        COUNT.store(listings.len(), Ordering::Relaxed);
    }
    listing
}

/// What the listing of a directory is to lack; `None` where that is nothing.
fn hidden(fd: c_int) -> Option<BTreeSet<i32>> {
    let dump = DUMP.lock();
    let plan = dump.as_ref()?.stage.plan()?;
    let path = path_in_proc(fd)?;
    let task = task(path.strip_suffix(b"/fd")?)?;
    plan.hidden
        .get(&task)
        .filter(|hidden| !hidden.is_empty())
        .cloned()
}

/// readdir64(3).
///
/// # Safety
/// `listing` is what the program gave, as for readdir(3), and `real` the real call.
pub unsafe fn on_readdir(
    listing: *mut DIR,
    real: impl Fn(*mut DIR) -> *mut dirent64,
) -> *mut dirent64 {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return real(listing);
    }
    let listings = LISTINGS.lock();
    let Some(hidden) = listings.get(&listing.addr()) else {
        drop(listings);
        return real(listing);
    };
    loop {
        let entry = real(listing);
        if entry.is_null() {
            return entry;
        }
        // SAFETY: readdir gives an entry with a NUL-terminated name.
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
        let number = name.to_str().ok().and_then(|name| name.parse().ok());
        if number.is_none_or(|number: i32| !hidden.contains(&number)) {
            return entry;
        }
    }
}

/// closedir(3), before it: another stream may get the address.
pub fn on_closedir(listing: *mut DIR) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        let mut listings = LISTINGS.lock();
        listings.remove(&listing.addr());
        COUNT.store(listings.len(), Ordering::Relaxed);
    }
}

/// The task whose directory in /proc a descriptor is.
pub fn task_of_directory(fd: c_int) -> Option<i32> {
    task(&path_in_proc(fd)?)
}

fn task(path: &[u8]) -> Option<i32> {
    let name = path.rsplit(|&b| b == b'/').next()?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn path_in_proc(fd: c_int) -> Option<Vec<u8>> {
    // SAFETY: statfs is plain data, and all zeroes is a value of it.
    let mut status: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: it is writable and of the right type.
    let result = unsafe { libc::fstatfs64(fd, &mut status) };
    if result != 0 || status.f_type != libc::PROC_SUPER_MAGIC {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    Some(path.into_os_string().into_vec())
}

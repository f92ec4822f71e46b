//! Listings of /proc/PID/fd without what is left out.

use super::{DUMP, REQUEST, Stage};
use ckpt_restart::errno;
use libc::{DIR, c_int, dirent64};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
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
    let Stage::Planned(plan) = &dump.as_ref()?.stage else {
        return None;
    };
    if !is_in_proc(fd) {
        return None;
    }
    let path = path_of(fd)?;
    let mut names = path.rsplit(|&b| b == b'/');
    if names.next() != Some(b"fd") {
        return None;
    }
    let task: i32 = std::str::from_utf8(names.next()?).ok()?.parse().ok()?;
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

/// Whether a descriptor is this process's directory in /proc.
pub fn is_own_directory(fd: c_int) -> bool {
    let name = path_of(fd).and_then(|path| {
        let name = path.rsplit(|&b| b == b'/').next()?;
        std::str::from_utf8(name).ok()?.parse::<i32>().ok()
    });
    // SAFETY: getpid takes nothing.
    is_in_proc(fd) && name == Some(unsafe { libc::getpid() })
}

fn is_in_proc(fd: c_int) -> bool {
    // SAFETY: statfs is plain data, and all zeroes is a value of it.
    let mut status: libc::statfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: it is writable and of the right type.
    let result = unsafe { libc::fstatfs64(fd, &mut status) };
    result == 0 && status.f_type == libc::PROC_SUPER_MAGIC
}

fn path_of(fd: c_int) -> Option<Vec<u8>> {
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    Some(path.as_os_str().as_bytes().to_vec())
}

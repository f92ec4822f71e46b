//! The array of the environment, as exec(2) made it: changed before main only, and not by
//! setenv(3), which shells replace.

use ckpt_restart::library::named;
use std::ffi::{CStr, CString, c_char};

/// The strings of a NULL-terminated array.
pub fn strings(array: *const *const c_char) -> impl Iterator<Item = &'static CStr> {
    let mut next = array;
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: argv and envp end in a NULL, after which nothing is read, and
        // live as long as the process.
        unsafe {
            let string = *next;
            if string.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(string))
        }
    })
}

/// Takes a variable out.
///
/// # Safety
/// `environment` is the array that exec(2) made, there are more strings in it than `index`,
/// and nobody else reads it meanwhile.
pub unsafe fn remove(environment: *const *const c_char, index: usize) {
    let count = strings(environment).count();
    // SAFETY: the array is the process's own to write, and the null at its end is moved
    // with the rest.
    unsafe {
        let gone = environment.add(index).cast_mut();
        std::ptr::copy(gone.add(1), gone, count - index);
    }
}

/// Takes this library, and no other, out of LD_PRELOAD: the programs that this one starts
/// have nothing to do with advice, and would load it in vain.
///
/// # Safety
/// As for [`remove`].
pub unsafe fn leave_preload(environment: *const *const c_char) {
    let list = |entry: &'static CStr| entry.to_bytes().strip_prefix(PRELOAD);
    let mut lists = strings(environment).map(list).enumerate();
    let Some((index, list)) = lists.find_map(|(index, list)| Some((index, list?))) else {
        return;
    };
    match without(list, own_name()) {
        // SAFETY: as the caller promises; it is there.
        None => unsafe { remove(environment, index) },
        Some(rest) => {
            let entry = [PRELOAD, &rest].concat();
            let Ok(entry) = CString::new(entry) else {
                return;
            };
            // SAFETY: as the caller promises; the string is never freed.
            unsafe { *environment.add(index).cast_mut() = entry.into_raw() };
        }
    }
}

const PRELOAD: &[u8] = b"LD_PRELOAD=";

/// A list as ld.so(8) takes it, without one name; `None` where that leaves nothing.
fn without(list: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let rest = named(list).filter(|item| item.rsplit(|&b| b == b'/').next() != Some(name));
    let rest = rest.collect::<Vec<_>>().join(&b':');
    (!rest.is_empty()).then_some(rest)
}

/// The name of the file of this library.
fn own_name() -> &'static [u8] {
    // SAFETY: Dl_info is plain data, and all zeroes is a value of it.
    let mut of: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own: fn() -> &'static [u8] = own_name;
    // SAFETY: it is writable; the address is only compared.
    let found = unsafe { libc::dladdr(own as *const libc::c_void, &raw mut of) };
    if found == 0 || of.dli_fname.is_null() {
        return b"libckptadv.so";
    }
    // SAFETY: the loader keeps the name as long as the library, which is never unloaded.
    let path = unsafe { CStr::from_ptr(of.dli_fname) }.to_bytes();
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_library_is_taken_out_of_a_list() {
        for (list, rest) in [
            ("/a/libckptadv.so", None),
            ("libckptadv.so::", None),
            ("/b.so:/a/$LIB/libckptadv.so c.so", Some("/b.so:c.so")),
            ("/a/notlibckptadv.so", Some("/a/notlibckptadv.so")),
        ] {
            let rest = rest.map(|rest| rest.as_bytes().to_vec());
            assert_eq!(without(list.as_bytes(), b"libckptadv.so"), rest, "{list}");
        }
    }
}

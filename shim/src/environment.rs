//! The variables that configure this crate. Each is read once, when the program
//! starts; later changes of the environment do not matter.

use crate::Error;
use crate::sys;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The number of the cradvise call.
pub static CRADVISE_NR: Variable = Variable::new(c"CRADVISE_NR", call_number);
/// Which backend to use, and no other: [`KERNEL`] or [`TABLE`].
pub static CRADVISE_BACKEND: Variable = Variable::new(c"CRADVISE_BACKEND", backend);
/// The number of the restart call.
pub static CKPT_RESTART_NR: Variable = Variable::new(c"CKPT_RESTART_NR", call_number);

/// The table of the program before exec(2), which libckptadv.so reads. Internal: its form
/// changes with the version in it.
pub const CRADVISE_TABLE: &str = match c"CRADVISE_TABLE".to_str() {
    Ok(name) => name,
    Err(_) => unreachable!(),
};

/// `CRADVISE_BACKEND=kernel`.
pub const KERNEL: i64 = 0;
/// `CRADVISE_BACKEND=table`.
pub const TABLE: i64 = 1;

// No value of a variable is negative.
const UNREAD: i64 = -1;
const ABSENT: i64 = -2;
const BAD: i64 = -3;

/// A variable and its value, once read.
pub struct Variable {
    name: &'static CStr,
    parse: fn(&[u8]) -> Option<i64>,
    value: AtomicI64,
}

impl Variable {
    const fn new(name: &'static CStr, parse: fn(&[u8]) -> Option<i64>) -> Self {
        Variable {
            name,
            parse,
            value: AtomicI64::new(UNREAD),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name.to_str().expect("names are ASCII")
    }

    /// Its value; `None` where it is unset or empty.
    ///
    /// # Errors
    /// [`Error::Variable`] where it has a bad value: a typo must not pass for
    /// "not set".
    pub fn get(&self) -> Result<Option<i64>, Error> {
        let value = match self.value.load(Relaxed) {
            UNREAD => self.read(),
            value => value,
        };
        match value {
            ABSENT => Ok(None),
            BAD => Err(Error::Variable(self.name())),
            value => Ok(Some(value)),
        }
    }

    fn read(&self) -> i64 {
        let value = sys::with_variable(self.name, |value| match value {
            None | Some([]) => ABSENT,
            Some(text) => (self.parse)(text).unwrap_or(BAD),
        });
        self.value.store(value, Relaxed);
        value
    }
}

fn call_number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i32>().ok()?;
    digits.then_some(number.into())
}

fn backend(text: &[u8]) -> Option<i64> {
    match text {
        b"kernel" => Some(KERNEL),
        b"table" => Some(TABLE),
        _ => None,
    }
}

/// Reads all.
pub fn read() {
    for variable in [&CRADVISE_NR, &CRADVISE_BACKEND, &CKPT_RESTART_NR] {
        variable.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_numbers_are_plain_decimal() {
        assert_eq!(call_number(b"302"), Some(302));
        assert_eq!(call_number(b"0"), Some(0));
        for bad in ["-1", "+3", "0x12e", "302 ", "9999999999", "restart"] {
            assert_eq!(call_number(bad.as_bytes()), None, "{bad}");
        }
    }
}

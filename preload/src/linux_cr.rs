//! Placeholder.
use libc::{c_int, c_long, c_void, ssize_t};
pub fn start() {}
pub fn end() {}
pub fn on_read(_fd: c_int, _buffer: *mut c_void, result: ssize_t) -> ssize_t {
    result
}
pub fn before_closing(_fd: c_int) {}
pub fn on_syscall(_number: c_long, args: [c_long; 4], real: impl Fn(c_long) -> c_long) -> c_long {
    real(args[1])
}

//! libckptadv.so: makes an unmodified restart program obey advice.
//!
//! ```text
//! CKPT_PRESERVE=0,1,2 LD_PRELOAD=libckptadv.so restart < image
//! CKPT_PRESERVE=1 CKPT_IGNORE=7 LD_PRELOAD=libckptadv.so criu restore -D images
//! ```
//!
//! Three layers: [`hooks`] is the table of what is interposed, each entry one
//! line into one function; [`linux_cr`] and [`criu`] are what those functions
//! do, one for each engine, [`table`] and [`exec`] what they do for cradvise(2);
//! [`moments`] is what happens before main and at exit, in an [`environment`] that
//! programs share; what an image is and what advice makes of it is in the crates `ckpt-image` and
//! `ckpt-restart`.
//!
//! Without a CKPT_ variable, and as long as no descriptor was ever advised, nothing
//! here does anything.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("libckptadv.so interposes glibc on x86_64 Linux; no other target is supported yet");

pub mod criu;
pub mod environment;
pub mod exec;
pub mod hooks;
pub mod lean;
pub mod linux_cr;
pub mod moments;
pub mod state;
pub mod table;

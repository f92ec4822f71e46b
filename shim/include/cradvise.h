/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cradvise(): advise what becomes of a descriptor when this process restarts
 * another from a checkpoint.
 *
 * Manual pages: cradvise(2) for the calls and what advice means, cradvise(3)
 * for the library. Link with -lcradvise (pkg-config cradvise).
 *
 * Every function returns -1 and sets errno where it fails; where it succeeds,
 * errno is left as it was.
 */
#ifndef CRADVISE_H
#define CRADVISE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* No advice: the number is what the image says. */
#define CR_ADV_NORMAL 0
/*
 * The restarted tasks get the caller's descriptor of this number. Alone, it is
 * refused at restart (EEXIST) where the image has the number too.
 */
#define CR_ADV_PRESERVE 1
/* What the image has at this number is dropped. */
#define CR_ADV_IGNORE 2

/*
 * The descriptor flag that stands for CR_ADV_PRESERVE in F_GETFD and F_SETFD of
 * fcntl(2), beside FD_CLOEXEC: see cradvise(2).
 */
#define FD_CR_PRESERVE 2

/*
 * Sets the advice of descriptor number fd in this process, in place of what was
 * set before: CR_ADV_NORMAL, or CR_ADV_PRESERVE and CR_ADV_IGNORE in any
 * combination. Returns 0.
 *
 * Thread-safe and async-signal-safe, as are cradvise_query(), cradvise_reset()
 * and cradvise_status().
 *
 * Errors: EINVAL, EBADF, ENOTSUP, ENOMEM, ENOSYS, those of fstat(2).
 */
int cradvise(int fd, int advice);

/*
 * Returns the advice of descriptor number fd in this process: CR_ADV_ bits.
 *
 * Errors: EBADF, ESTALE, EINVAL, ENOSYS, those of fstat(2).
 */
int cradvise_query(int fd);

/*
 * Clears the advice of every number of this process. Returns 0.
 *
 * Errors: ENOTSUP, EINVAL, ENOSYS.
 */
int cradvise_reset(void);

/* Who keeps the advice: nobody (every call fails), a table in the process, or
 * the kernel. */
#define CR_BACKEND_NONE 0
#define CR_BACKEND_TABLE 1
#define CR_BACKEND_KERNEL 2

/* Why: CRADVISE_NR is not set; is set; is the number of a call that this kernel
 * does not have; CRADVISE_BACKEND is set; a variable has a bad value. */
#define CR_REASON_NOT_CONFIGURED 0
#define CR_REASON_CONFIGURED 1
#define CR_REASON_NO_SUCH_CALL 2
#define CR_REASON_FORCED 3
#define CR_REASON_BAD_VARIABLE 4

/* What cradvise_status() tells. Fields may be added at its end. */
struct cradvise_status {
	uint32_t backend; /* CR_BACKEND_ */
	uint32_t reason;  /* CR_REASON_ */
	int32_t error;    /* the errno of every call where nobody keeps it; or 0 */
	int32_t number;   /* of the system call; -1: none is configured */
	char text[240];   /* the same in words, one line, ends in a zero byte */
};

/*
 * Tells which backend is in force in this process, and why: for people and
 * logs, not to branch on. size is sizeof(struct cradvise_status); bytes that
 * this library does not know become zero. Returns 0.
 *
 * Errors: EFAULT (status is NULL), EINVAL (size is less than the size of the
 * structure above).
 */
int cradvise_status(struct cradvise_status *status, size_t size);

/*
 * Makes the restart system call of Linux-CR, with the advice of this process
 * carried out on the image, and returns what the call returns: to the
 * coordinator 0.
 *
 * pid: the root task to be; 0 in a task that is to be restarted.
 * image_fd: where the image is read from; not used where pid is 0.
 * flags: RESTART_ flags of Linux-CR's <linux/checkpoint.h>.
 * log_fd: where the kernel reports problems, or -1.
 *
 * Errors: ENOSYS, EINVAL, EBADF, ESTALE, EEXIST, EACCES, ENOTSUP, those of the
 * call.
 */
long cradvise_restart(pid_t pid, int image_fd, unsigned long flags, int log_fd);

/*
 * Becomes another program, as execvp(3) does: a restart program of Linux-CR,
 * criu(8), or whatever starts one of these, which gets the advice of this
 * process, the descriptors that it preserves, and the library that carries the
 * advice out. Usually called in a child of fork(2). Does not return where it
 * succeeds.
 *
 * library: libckptadv.so, by its path, in which there is no space or colon; or
 * NULL where the loader finds it.
 * file, argv: as for execvp(3).
 *
 * Errors: EFAULT (file, argv or argv[0] is NULL), EBADF, ESTALE, EINVAL, ENOSYS,
 * ENOENT, EACCES, ELIBBAD (of the library), those of execve(2).
 */
int cradvise_exec(const char *library, const char *file, char *const argv[]);

#ifdef __cplusplus
}
#endif

#endif

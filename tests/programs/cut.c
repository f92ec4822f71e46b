/*
 * cut: a library to preload behind what is tested, that makes the system fail under it. Calls count that come from an
 * object with "ckptadv" in its name, unless said otherwise.
 *
 *   CUT=short         reads and writes move some of what is asked for, or are interrupted (whoever calls)
 *   CUT=fail:N:ERRNO  the N-th descriptor, thread or name that is asked for is refused
 *   CUT=write:N:ERRNO the N-th write to a file is refused
 *   CUT=memfd:ERRNO   there is no memfd_create(2)
 *   CUT=shrink:N      before the N-th read of an image that is a file, it is cut to two thirds; of one whose path begins
 *                     with CUT_WITHIN, and no other
 *   CUT=storm         SIGUSR2 at once and every 200 us, with a handler and without SA_RESTART (whoever is called)
 *   CUT=feeder:N      a child of the program is killed before its N-th read (whoever calls)
 *   CUT=relay:N       a relay is killed before its N-th poll or splice
 *
 * CUT_LOG=FILE gets a line for each fault.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define OURS() is_ours(__builtin_return_address(0))

static char kind[16];
static long at, failure;
static const char *log_path, *within;
static pid_t program;
static int is_criu, is_relay;
static unsigned calls;
static unsigned long chance = 20260101;
/* criu reads the files of an image as well: these are the library's. */
static char of_library[1024];

static int is(const char *wanted)
{
	return !strcmp(kind, wanted);
}

static int is_ours(void *from)
{
	Dl_info object;

	return kind[0] && dladdr(from, &object) && object.dli_fname && strstr(object.dli_fname, "ckptadv");
}

static void note(const char *what)
{
	int before = errno, fd;

	if (log_path && (fd = syscall(SYS_open, log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) >= 0) {
		syscall(SYS_write, fd, what, strlen(what));
		syscall(SYS_write, fd, "\n", 1);
		syscall(SYS_close, fd);
	}
	errno = before;
}

static int its_turn(void)
{
	return __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) == at;
}

static size_t some(size_t most)
{
	unsigned long next = __atomic_add_fetch(&chance, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);

	next ^= next >> 29;
	next *= 0xbf58476d1ce4e5b9;
	return 1 + (next >> 32) % most;
}

static int refused(void *from, const char *what)
{
	if (!is("fail") || !is_ours(from) || !its_turn())
		return 0;
	note(what);
	errno = failure;
	return 1;
}

static int is_file(int fd, int or_fifo)
{
	struct stat st;

	return !syscall(SYS_fstat, fd, &st) && (S_ISREG(st.st_mode) || (or_fifo && S_ISFIFO(st.st_mode)));
}

/* How much a read or write of this length moves; 0 where it is interrupted. */
static size_t cut(int fd, size_t length)
{
	size_t less = length;

	if (!is("short") || length < 2 || !is_file(fd, 1) || (is_criu && !of_library[fd & 1023]))
		return length;
	if (some(3) == 1)
		less = 0;
	else
		less = some(length < 5000 || some(2) == 1 ? length : 5000);
	if (less < length && calls++ == 0)
		note("short");
	return less;
}

static void handle(int signal)
{
	static char was;

	(void)signal;
	if (!was)
		note("storm");
	was = 1;
}

static void storm(void)
{
	struct sigaction action = { .sa_handler = handle };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	struct itimerspec every = { .it_interval.tv_nsec = 200000, .it_value.tv_nsec = 1 };
	timer_t timer;

	sigaction(SIGUSR2, &action, NULL);
	if (!timer_create(CLOCK_MONOTONIC, &event, &timer))
		timer_settime(timer, 0, &every, NULL);
}

__attribute__((constructor)) static void start(void)
{
	const char *text = getenv("CUT");

	log_path = getenv("CUT_LOG");
	within = getenv("CUT_WITHIN");
	program = getpid();
	is_criu = dlsym(RTLD_DEFAULT, "criu_get_image_dir") != NULL;
	if (!text || sscanf(text, "%15[a-z]:%ld:%ld", kind, &at, &failure) < 1)
		return;
	if (is("memfd"))
		failure = at;
	if (is("storm"))
		storm();
}

static void shrink(int fd)
{
	char name[64], path[4096];
	struct stat st;
	ssize_t n;

	if (!is_file(fd, 0) || (is_criu && !of_library[fd & 1023]))
		return;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	n = readlink(name, path, sizeof(path) - 1);
	if (n <= 0 || fstat(fd, &st) < 0)
		return;
	path[n] = 0;
	/* Whatever else is read is not the test's to harm. */
	if (!within || strncmp(path, within, strlen(within)) || !its_turn())
		return;
	if (!truncate(path, st.st_size * 2 / 3))
		note(path);
}

static void die_in_turn(const char *what)
{
	if (its_turn()) {
		note(what);
		syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
	}
}

ssize_t read(int fd, void *buffer, size_t length)
{
	size_t less = cut(fd, length);

	REAL(read);
	if (length && !less) {
		errno = EINTR;
		return -1;
	}
	if (is("shrink") && length > 64)
		shrink(fd);
	if (is("feeder") && getpid() != program && is_file(fd, 1))
		die_in_turn("feeder");
	return real(fd, buffer, less);
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
	size_t less = cut(fd, length);

	REAL(pread64);
	if (length && !less) {
		errno = EINTR;
		return -1;
	}
	if (is("shrink"))
		shrink(fd);
	return real(fd, buffer, less, offset);
}

ssize_t write(int fd, const void *buffer, size_t length)
{
	/* Few bytes into a pipe are written at once. */
	size_t less = length > 64 && fd > 2 ? cut(fd, length) : length;

	REAL(write);
	if (length && !less) {
		errno = EINTR;
		return -1;
	}
	if (is("write") && fd > 2 && OURS() && is_file(fd, 0) && its_turn()) {
		note("write");
		errno = failure;
		return -1;
	}
	return real(fd, buffer, less);
}

ssize_t splice(int from, off64_t *at_from, int to, off64_t *at_to, size_t length, unsigned flags)
{
	REAL(splice);
	if (is("short")) {
		if (some(3) == 1) {
			errno = EINTR;
			return -1;
		}
		length = some(length);
	}
	if (is_relay && is("relay"))
		die_in_turn("relay");
	return real(from, at_from, to, at_to, length, flags);
}

int poll(struct pollfd *polled, nfds_t count, int timeout)
{
	REAL(poll);
	if (is("short") && OURS() && some(3) == 1) {
		errno = EINTR;
		return -1;
	}
	if (is_relay && is("relay"))
		die_in_turn("relay");
	return real(polled, count, timeout);
}

pid_t setsid(void)
{
	REAL(setsid);
	if (OURS()) {
		is_relay = 1;
		calls = 0;
	}
	return real();
}

/* ---- what makes a descriptor */

#define MODE() \
	mode_t mode = 0; \
	if (flags & (O_CREAT | O_TMPFILE)) { \
		va_list list; \
		va_start(list, flags); \
		mode = va_arg(list, mode_t); \
		va_end(list); \
	}

int open(const char *path, int flags, ...)
{
	REAL(open);
	MODE();
	return refused(__builtin_return_address(0), "open") ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	REAL(open64);
	MODE();
	return refused(__builtin_return_address(0), "open64") ? -1 : real(path, flags, mode);
}

/* criu's own come through the library as well; it does not open images with this flag. */
static int of_image(const char *path, int flags, int fd)
{
	size_t length = strlen(path);
	int image = length > 4 && !strcmp(path + length - 4, ".img") && (flags & O_CLOEXEC);

	if (fd >= 0)
		of_library[fd & 1023] = image;
	return image;
}

int openat(int directory, const char *path, int flags, ...)
{
	int fd;

	REAL(openat);
	MODE();
	if ((!is_criu || of_image(path, flags, -1)) && refused(__builtin_return_address(0), "openat"))
		return -1;
	fd = real(directory, path, flags, mode);
	of_image(path, flags, fd);
	return fd;
}

int openat64(int directory, const char *path, int flags, ...)
{
	int fd;

	REAL(openat64);
	MODE();
	if ((!is_criu || of_image(path, flags, -1)) && refused(__builtin_return_address(0), "openat64"))
		return -1;
	fd = real(directory, path, flags, mode);
	of_image(path, flags, fd);
	return fd;
}

static int copy(void *from, int fd, int command, long argument, __typeof__(&fcntl) real)
{
	/* criu copies its own descriptors lower. */
	if (command == F_DUPFD_CLOEXEC && (!is_criu || argument >= 160) && refused(from, "F_DUPFD_CLOEXEC"))
		return -1;
	return real(fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
	va_list list;
	long argument;

	REAL(fcntl);
	va_start(list, command);
	argument = va_arg(list, long);
	va_end(list);
	return copy(__builtin_return_address(0), fd, command, argument, real);
}

int fcntl64(int fd, int command, ...)
{
	va_list list;
	long argument;

	REAL(fcntl64);
	va_start(list, command);
	argument = va_arg(list, long);
	va_end(list);
	return copy(__builtin_return_address(0), fd, command, argument, real);
}

int memfd_create(const char *name, unsigned flags)
{
	int fd;

	REAL(memfd_create);
	if (is("memfd") && OURS()) {
		note("memfd_create");
		errno = failure;
		return -1;
	}
	if (refused(__builtin_return_address(0), "memfd_create"))
		return -1;
	fd = real(name, flags);
	if (fd >= 0)
		of_library[fd & 1023] = OURS();
	return fd;
}

#define REFUSED(name, result, ...) \
	REAL(name); \
	return refused(__builtin_return_address(0), #name) ? result : real(__VA_ARGS__)

int pipe(int ends[2])
{
	REFUSED(pipe, -1, ends);
}

int pipe2(int ends[2], int flags)
{
	REFUSED(pipe2, -1, ends, flags);
}

int eventfd(unsigned value, int flags)
{
	REFUSED(eventfd, -1, value, flags);
}

int socket(int domain, int type, int protocol)
{
	REFUSED(socket, -1, domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int ends[2])
{
	REFUSED(socketpair, -1, domain, type, protocol, ends);
}

int dup(int fd)
{
	REFUSED(dup, -1, fd);
}

int epoll_create1(int flags)
{
	REFUSED(epoll_create1, -1, flags);
}

DIR *opendir(const char *path)
{
	REFUSED(opendir, NULL, path);
}

char *mkdtemp(char *template)
{
	REFUSED(mkdtemp, NULL, template);
}

int mkfifo(const char *path, mode_t mode)
{
	REFUSED(mkfifo, -1, path, mode);
}

int mkostemp(char *template, int flags)
{
	REFUSED(mkostemp, -1, template, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
	REAL(pthread_create);
	if (refused(__builtin_return_address(0), "pthread_create"))
		return EAGAIN;
	return real(thread, attributes, run, argument);
}

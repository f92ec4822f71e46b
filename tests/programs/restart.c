/*
 * A restart program for Linux-CR images, with the processes of the real ones: a coordinator, a feeder that
 * copies the image into a pipe, and one task per entry of the image's tree. It knows the first records of an
 * image and nothing of descriptors.
 *
 *   restart [-i FILE] [-l LOGFILE] [--nr N] [--pids] [--self] [--root DIR] [--root-first DIR] [--root-task DIR]
 *           [--close HOW] [--close-first HOW] < IMAGE
 *
 * -i FILE   the image, instead of standard input
 * -l FILE   where the kernel may complain
 * --nr N    number of the restart call (302)
 * --pids    give the tasks the pids that they had
 * --self    become the program of the image, which has one task
 * --root DIR  tasks have this root directory
 * --root-first DIR  the program has it before it reads the image, as those of 2010 do
 * --root-task DIR  the root task gives it itself, as with those since 2011, and ends where it cannot
 * --close HOW  tasks of one thread close all from 3 on that they inherit: "each" number below the limit, those found
 *           in a "walk" of /proc, by "range" or "from", or "raw", by a system call that is no function's; or put 2
 *           "over" numbers up to 599
 * --close-first HOW  the program does so itself before it reads the image
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEADER = 1, HEADER_ARCH, CONTAINER, BUFFER, LSM_INFO = 7, TREE_OR_PIDS = 101, TREE_AFTER_PIDS };
enum { HEADER_LENGTH = 72, TREE_LENGTH = 16, PIDS_LENGTH = 24, REVISION_AT = 24 };
enum { STACK_SIZE = 64 * 1024 };
enum { RESTART_TASKSELF = 1 };

struct swap {
	int32_t old, new;
};

struct entry {
	int32_t pid, ppid, tgid, pgid, sid, pad;
};

struct task {
	int32_t pid, ppid, tgid, sid;
};

static long nr = 302;
static int keep_pids;
static int log_fd = -1;
static const char *root_directory, *root_of_task, *close_how;

/* Everything up to and with the tree, as it was read. */
static char *head;
static size_t head_size;

static struct task *tasks;
static int task_count;

/* Where the pids stand in the head: in the entries of the tree (v20), or in a record of their own. */
static size_t entries_at, pids_at, pids_end;

static int tasks_to_feeder[2], feed[2];
static volatile pid_t root, feeder;
static volatile sig_atomic_t root_ended, feeder_ended;

static void die(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "restart: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	exit(1);
}

static void read_fully(int fd, void *buffer, size_t size)
{
	char *at = buffer;

	while (size > 0) {
		ssize_t n = read(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			die("reading the image: %s", strerror(errno));
		if (n == 0)
			die("the image ends early");
		at += n;
		size -= n;
	}
}

static int write_fully(int fd, const void *buffer, size_t size)
{
	const char *at = buffer;

	while (size > 0) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		at += n;
		size -= n;
	}
	return 0;
}

/* Reads one record of the head; returns where it stands there. */
static size_t read_record(uint32_t *type, uint32_t *length)
{
	uint32_t prefix[2];
	size_t at = head_size;

	read_fully(0, prefix, sizeof(prefix));
	*type = prefix[0];
	*length = prefix[1];
	if (*length < sizeof(prefix) || *length > 64 * 1024 * 1024)
		die("record of length %u", *length);
	head = realloc(head, head_size + *length);
	if (!head)
		die("%s", strerror(errno));
	memcpy(head + at, prefix, sizeof(prefix));
	read_fully(0, head + at + sizeof(prefix), *length - sizeof(prefix));
	head_size += *length;
	return at;
}

static size_t expect(uint32_t type, uint32_t *length)
{
	uint32_t found, found_length;
	size_t at = read_record(&found, &found_length);

	if (found != type)
		die("record of type %u where %u should be", found, type);
	if (length)
		*length = found_length;
	return at;
}

static int32_t field(size_t at)
{
	int32_t value;

	memcpy(&value, head + at, sizeof(value));
	return value;
}

/* The number behind a pid object: `first` is the object of the first number. */
static int32_t pid_of_object(int32_t object, int32_t first)
{
	size_t at = pids_at;
	int32_t i;

	for (i = first; at + 8 <= pids_end; i++) {
		if (i == object)
			return field(at + 4);
		at += 8 + 4 * (size_t)(uint32_t)field(at);
	}
	return object <= 0 ? object : 0;
}

static void read_head(void)
{
	uint32_t type, length;
	int32_t first = 0;
	size_t at;
	int i;

	at = expect(HEADER, &length);
	if (length != HEADER_LENGTH)
		die("not an image that this program knows");
	for (i = 0; i < 3; i++)
		expect(BUFFER, NULL);
	expect(HEADER_ARCH, NULL);
	expect(CONTAINER, NULL);
	expect(BUFFER, NULL);
	expect(LSM_INFO, NULL);
	at = read_record(&type, &length);
	if (type == TREE_OR_PIDS && length == PIDS_LENGTH) {
		first = field(at + 16);
		at = expect(BUFFER, &length);
		pids_at = at + 8;
		pids_end = at + length;
		at = expect(TREE_AFTER_PIDS, &length);
	} else if (type != TREE_OR_PIDS) {
		die("record of type %u where the tree should be", type);
	}
	if (length != TREE_LENGTH)
		die("a tree that this program does not know");
	task_count = field(at + 8);
	at = expect(BUFFER, &length);
	if (task_count < 1 || length != 8 + (uint64_t)task_count * sizeof(struct entry))
		die("a tree of %d tasks", task_count);
	entries_at = at + 8;
	tasks = calloc(task_count, sizeof(*tasks));
	if (!tasks)
		die("%s", strerror(errno));
	for (i = 0; i < task_count; i++) {
		struct entry entry;
		struct task *task = &tasks[i];

		memcpy(&entry, head + entries_at + i * sizeof(entry), sizeof(entry));
		task->pid = pids_at ? pid_of_object(entry.pid, first) : entry.pid;
		task->ppid = pids_at ? pid_of_object(entry.ppid, first) : entry.ppid;
		task->tgid = pids_at ? pid_of_object(entry.tgid, first) : entry.tgid;
		task->sid = pids_at ? pid_of_object(entry.sid, first) : entry.sid;
	}
}

/* ---- feeder */

static void rename_pid(size_t at, const struct swap *swaps)
{
	int i;

	for (i = 0; i < task_count; i++) {
		if (swaps[i].old == field(at)) {
			memcpy(head + at, &swaps[i].new, sizeof(swaps[i].new));
			return;
		}
	}
}

static void rename_pids(const struct swap *swaps)
{
	size_t at;
	int i, id;

	if (pids_at) {
		for (at = pids_at; at + 8 <= pids_end; at += 8 + 4 * (size_t)(uint32_t)field(at))
			rename_pid(at + 4, swaps);
		return;
	}
	for (i = 0; i < task_count; i++)
		for (id = 0; id < 5; id++)
			rename_pid(entries_at + i * sizeof(struct entry) + 4 * id, swaps);
}

static void feed_image(void)
{
	struct swap *swaps = calloc(task_count, sizeof(*swaps));
	char block[4096], release[4];
	ssize_t n;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(feed[0]);
	close(tasks_to_feeder[1]);
	dup2(feed[1], 1);
	close(feed[1]);
	for (i = 0; i < task_count; i++)
		read_fully(tasks_to_feeder[0], &swaps[i], sizeof(*swaps));
	if (!keep_pids)
		rename_pids(swaps);
	if (write_fully(1, head, head_size) < 0)
		_exit(1);
	while ((n = read(0, block, sizeof(block))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || write_fully(1, block, n) < 0)
			break;
	}
	close(1);
	/* An exit now would interrupt the coordinator's call with a SIGCHLD. */
	while (read(tasks_to_feeder[0], release, sizeof(release)) < 0 && errno == EINTR)
		;
	_exit(0);
}

/* ---- what is inherited */

static void close_from_3(const char *how)
{
	if (!strcmp(how, "each")) {
		struct rlimit limit;
		int fd;

		getrlimit(RLIMIT_NOFILE, &limit);
		for (fd = 3; fd < (int)limit.rlim_cur; fd++)
			close(fd);
	} else if (!strcmp(how, "walk")) {
		DIR *directory = opendir("/proc/self/fd");
		struct dirent *entry;

		while (directory && (entry = readdir(directory))) {
			int fd = atoi(entry->d_name);

			if (fd > 2 && fd != dirfd(directory))
				close(fd);
		}
		if (directory)
			closedir(directory);
	} else if (!strcmp(how, "range")) {
		if (close_range(3, ~0U, 0) < 0)
			die("close_range: %s", strerror(errno));
	} else if (!strcmp(how, "from")) {
		closefrom(3);
	} else if (!strcmp(how, "over")) {
		int fd;

		/* Some have to be left to open files with. */
		for (fd = 3; fd < 600; fd++)
			dup2(2, fd);
	} else if (!strcmp(how, "raw")) {
		if (syscall(SYS_close_range, 3, ~0U, 0) < 0)
			die("close_range: %s", strerror(errno));
	} else {
		die("close %s?", how);
	}
}

/* ---- tasks */

static int become(struct task *task);

static int become_thread(void *task)
{
	return become(task);
}

static pid_t start_process(struct task *task)
{
	pid_t wanted = task->pid;
	struct clone_args arguments = { .exit_signal = SIGCHLD };
	pid_t pid;

	if (keep_pids) {
		arguments.set_tid = (uintptr_t)&wanted;
		arguments.set_tid_size = 1;
		pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
	} else {
		pid = fork();
	}
	if (pid == 0)
		_exit(become(task));
	if (pid < 0)
		die("creating task %d: %s", task->pid, strerror(errno));
	return pid;
}

static void start_thread(struct task *task)
{
	char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pid_t tid;

	if (stack == MAP_FAILED)
		die("stack of task %d: %s", task->pid, strerror(errno));
	if (keep_pids) {
		FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");

		if (!last || fprintf(last, "%d", task->pid - 1) < 0 || fclose(last))
			die("pid of thread %d: %s", task->pid, strerror(errno));
	}
	tid = clone(become_thread, stack + STACK_SIZE, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, task);
	if (tid < 0)
		die("creating thread %d: %s", task->pid, strerror(errno));
	if (keep_pids && tid != task->pid)
		die("creating thread %d: its pid is taken", task->pid);
}

static int is_leader(const struct task *task)
{
	return task->pid == task->tgid;
}

static void start_children(const struct task *parent, int of_own_session)
{
	int i;

	for (i = 0; i < task_count; i++) {
		struct task *child = &tasks[i];
		int same = child->sid == parent->sid;

		if (child->ppid == parent->pid && is_leader(child) && child != parent && same == of_own_session)
			start_process(child);
	}
}

static int has_no_threads(const struct task *task)
{
	int i, of_process = 0;

	for (i = 0; i < task_count; i++)
		of_process += tasks[i].tgid == task->tgid;
	return of_process == 1;
}

/* The life of a task up to the call that makes it another program. May be a thread on a small stack. */
static int become(struct task *task)
{
	struct swap swap = { .old = task->pid, .new = syscall(SYS_gettid) };
	int i;

	if (root_of_task && task == &tasks[0] && (chroot(root_of_task) < 0 || chdir("/") < 0))
		return 1;
	if (is_leader(task)) {
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		/* Children of an older session have to be there before this one begins. */
		start_children(task, 0);
		if (task->sid == task->pid)
			setsid();
		start_children(task, 1);
		for (i = 0; i < task_count; i++)
			if (tasks[i].tgid == task->pid && !is_leader(&tasks[i]))
				start_thread(&tasks[i]);
	}
	if (write_fully(tasks_to_feeder[1], &swap, sizeof(swap)) < 0)
		return 1;
	if (close_how && has_no_threads(task))
		close_from_3(close_how);
	syscall(nr, 0, 0, 0, -1);
	return 1;
}

/* ---- coordinator */

static void reap(int signal)
{
	int saved = errno, status;
	pid_t pid;

	(void)signal;
	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (pid == root)
			root_ended = 1;
		if (pid == feeder)
			feeder_ended = 1;
	}
	errno = saved;
}

static void wait_for(volatile sig_atomic_t *ended, sigset_t *others)
{
	/* Who ended before the handler was there was told to nobody. */
	reap(SIGCHLD);
	while (!*ended)
		sigsuspend(others);
}

static void enter_root(const char *directory)
{
	if (chroot(directory) < 0 || chdir("/") < 0)
		die("%s: %s", directory, strerror(errno));
}

static int coordinate(void)
{
	struct sigaction action = { .sa_handler = reap };
	sigset_t child, before;
	pid_t pid;
	int error = 0;

	if (pipe(feed) < 0 || pipe(tasks_to_feeder) < 0)
		die("pipe: %s", strerror(errno));
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0)
		feed_image();
	feeder = pid;
	close(feed[1]);
	close(tasks_to_feeder[0]);
	/* From here on 0 is the image for everybody. */
	dup2(feed[0], 0);
	close(feed[0]);

	if (root_directory)
		enter_root(root_directory);
	root = start_process(&tasks[0]);
	sigprocmask(SIG_BLOCK, &child, &before);
	sigaction(SIGCHLD, &action, NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);

	if (syscall(nr, root, 0, 0, log_fd) < 0) {
		error = errno;
		fprintf(stderr, "restart: restart failed: %s\n", strerror(error));
		sigprocmask(SIG_BLOCK, &child, &before);
		if (!root_ended)
			kill(root, SIGKILL);
		/* It may wait for tasks that are no more. */
		if (!feeder_ended)
			kill(feeder, SIGKILL);
	} else {
		sigprocmask(SIG_BLOCK, &child, &before);
	}
	wait_for(&root_ended, &before);
	close(0);
	/* It may have been killed. Until here the signal is as it was: nobody else may raise it in the coordinator. */
	signal(SIGPIPE, SIG_IGN);
	write_fully(tasks_to_feeder[1], "done", 4);
	wait_for(&feeder_ended, &before);
	return error ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *close_first = NULL, *root_first = NULL;
	int self = 0, i;

	for (i = 1; i < argc; i++) {
		const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
		int fd;

		if (!strcmp(option, "--self")) {
			self = 1;
		} else if (!strcmp(option, "--pids")) {
			keep_pids = 1;
		} else if (!strcmp(option, "--nr") && value) {
			nr = atol(argv[++i]);
		} else if (!strcmp(option, "--root") && value) {
			root_directory = argv[++i];
		} else if (!strcmp(option, "--root-first") && value) {
			root_first = argv[++i];
		} else if (!strcmp(option, "--root-task") && value) {
			root_of_task = argv[++i];
		} else if (!strcmp(option, "--close") && value) {
			close_how = argv[++i];
		} else if (!strcmp(option, "--close-first") && value) {
			close_first = argv[++i];
		} else if (!strcmp(option, "-l") && value) {
			log_fd = open(argv[++i], O_WRONLY | O_CREAT | O_APPEND, 0644);
			if (log_fd < 0)
				die("%s: %s", value, strerror(errno));
		} else if (!strcmp(option, "-i") && value) {
			fd = open(argv[++i], O_RDONLY);
			if (fd < 0)
				die("%s: %s", value, strerror(errno));
			dup2(fd, 0);
			close(fd);
		} else {
			die("usage: restart [-i FILE] [-l LOGFILE] [--nr N] [--pids] [--self] [--root DIR] "
			    "[--root-first DIR] [--root-task DIR] [--close HOW] [--close-first HOW]");
		}
	}
	if (close_first)
		close_from_3(close_first);
	if (root_first)
		enter_root(root_first);
	if (self) {
		syscall(nr, getpid(), 0, RESTART_TASKSELF, log_fd);
		die("restart failed: %s", strerror(errno));
	}
	read_head();
	return coordinate();
}

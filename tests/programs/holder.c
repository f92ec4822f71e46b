/*
 * holder: holds descriptors of given kinds at given numbers, and nothing else.
 *
 *   holder READY WORD...
 *
 * in a session of its own. When everything is as asked, each of its processes adds its pid to the file READY. Words:
 *
 *   N=reg:PATH N=ro:PATH N=append:PATH   a regular file, made if need be
 *   N=sync:PATH                          one with O_SYNC and O_NONBLOCK
 *   N=dir:PATH N=dev:PATH N=fifo:PATH    what is there (a fifo is made)
 *   N=deleted:PATH                       a file that has lost its name
 *   N=map:PATH N=flock:PATH              a file that is mapped; that is locked
 *   N=posix:PATH N=ofd:PATH N=lease:PATH files with locks of other kinds
 *   N=gone:PATH                          a deleted file that is mapped
 *   N=dup:M                              as M
 *   N=pipe:M N=pair:M N=dgram:M N=seq:M  N and M are the ends (N the reading one)
 *   N=tcp:M N=pty:M                      likewise (N the accepted one; the master)
 *   N=stream:M                           likewise, a connection by a name that is gone
 *   N=listen:PATH N=abstract:NAME        listening sockets
 *   N=inet N=udp                         a listening socket; a bound one
 *   N=connect:PATH N=accept:M            a stream to the listener there; what M accepts
 *   N=bound:PATH N=to:PATH               a datagram socket with a name; one that is connected to it
 *   N=tcpto:PORT                         a connection to that port here
 *   N=raw N=packet N=vsock               other sockets
 *   N=netlink N=netlink:answer           another; with an answer in it
 *   N=eventfd N=timerfd N=signalfd N=inotify N=memfd N=fanotify
 *   N=epoll:M[,M...]                     an epoll set that watches these
 *   N=pidfd N=pidfd:PID N=dead           of this process; of another; of one that is dead
 *   N=ns:KIND                            a namespace of this process
 *   N=unwritable:KIND                    what no criu dumps: see the table in this source
 *   N=tun N=mapped-ring                  a tun device of its own; an io_uring whose memory is mapped
 *   N=many:COUNT                         /dev/null, that many times from N on (the last word)
 *   N=fill:BYTES                         makes the file that long, and not of holes
 *   0=memory:MIB                         so much memory, none of it alike
 *   N=send:M                             M is sent into the socket N and waits at its other end
 *   N=cloexec N=close                    marked close-on-exec; closed
 *   N=write:TEXT                         written into N
 *   job                                  (the first word) in the session that it is started in
 *   ctty                                 descriptor 0 becomes the controlling terminal
 *   count                                writes 1, 2, ... to descriptor 1, a line every 20 ms
 *   fork, clone, thread                  the rest is for a child; for one that shares the file table; another thread
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define HIGHEST 16384
#define OUT_OF_THE_WAY 600

static char wanted[HIGHEST];
static int shares_the_table;

static const char *ready;

/* Said in READY, since standard error may be what is held. */
static void fail(const char *what)
{
	int error = errno;

	dprintf(open(ready, O_WRONLY | O_CREAT | O_APPEND, 0644), "holder: %s: %s\n", what, strerror(error));
	_exit(1);
}

static int must(int result, const char *what)
{
	if (result < 0)
		fail(what);
	return result;
}

/* Everything is first opened out of the way, so that no number is taken by accident. */
static int place(int fd, int number, const char *what)
{
	int high = must(fcntl(must(fd, what), F_DUPFD, OUT_OF_THE_WAY), what);

	close(fd);
	must(dup2(high, number), what);
	close(high);
	wanted[number] = 1;
	return number;
}

static void place_both(int *fds, int a, int b, const char *what)
{
	int high = must(fcntl(fds[1], F_DUPFD, OUT_OF_THE_WAY), what);

	if (fds[1] != a && fds[1] != b)
		close(fds[1]);
	place(fds[0], a, what);
	must(dup2(high, b), what);
	close(high);
	wanted[b] = 1;
}

static void watch(int set, int number, char *list)
{
	place(set, number, "epoll");
	for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
		struct epoll_event event = { .events = EPOLLIN, .data.fd = atoi(word) };

		must(epoll_ctl(number, EPOLL_CTL_ADD, atoi(word), &event), "epoll_ctl");
	}
}

static struct sockaddr_in loopback(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return address;
}

static int inet(int type)
{
	struct sockaddr_in address = loopback();
	int fd = must(socket(AF_INET, type, 0), "socket");

	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	if (type == SOCK_STREAM)
		must(listen(fd, 4), "listen");
	return fd;
}

static void connection(int accepted, int connected)
{
	struct sockaddr_in address;
	socklen_t length = sizeof(address);
	int listener = inet(SOCK_STREAM), fds[2];

	must(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
	fds[1] = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(fds[1], (struct sockaddr *)&address, length), "connect");
	fds[0] = must(accept(listener, NULL, NULL), "accept");
	close(listener);
	place_both(fds, accepted, connected, "tcp");
}

static struct sockaddr_un named(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	return address;
}

static int abstract(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");

	strncpy(address.sun_path + 1, name, sizeof(address.sun_path) - 2);
	must(bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)), name);
	must(listen(fd, 4), "listen");
	return fd;
}

static int listener(const char *path)
{
	struct sockaddr_un address = named(path);
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");

	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	must(listen(fd, 4), "listen");
	return fd;
}

static void map(int fd, const char *path)
{
	must(ftruncate(fd, 4096), path);
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		fail("mmap");
}

static int pidfd(pid_t pid)
{
	return syscall(434, pid ? pid : getpid(), 0);
}

static int dead(void)
{
	pid_t pid = must(fork(), "fork");
	int fd;

	if (!pid)
		_exit(0);
	fd = pidfd(pid);
	must(waitpid(pid, NULL, 0), "waitpid");
	return fd;
}

static int namespace(const char *kind)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
	return open(path, O_RDONLY);
}

static int to(int type, const char *path)
{
	struct sockaddr_un address = named(path);
	int fd = must(socket(AF_UNIX, type, 0), "socket");

	must(connect(fd, (struct sockaddr *)&address, sizeof(address)), path);
	return fd;
}

static int bound(const char *path)
{
	struct sockaddr_un address = named(path);
	int fd = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");

	must(bind(fd, (struct sockaddr *)&address, sizeof(address)), path);
	return fd;
}

static void stream(int accepted, int connected)
{
	char path[64];
	int fds[2], waiting;

	snprintf(path, sizeof(path), "%s.%d", ready, accepted);
	waiting = listener(path);
	fds[1] = to(SOCK_STREAM, path);
	fds[0] = must(accept(waiting, NULL, NULL), "accept");
	close(waiting);
	unlink(path);
	place_both(fds, accepted, connected, "stream");
}

/* A POSIX lock goes when any descriptor of the file is closed. */
static void locked(int number, const char *path, int command)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	place(open(path, O_RDWR | O_CREAT, 0644), number, path);
	must(fcntl(number, command, &lock), "lock");
}

/* A network namespace that none of these processes is in. */
static int another_network(void)
{
	char path[64];
	int fd, ends[2];
	pid_t child;

	must(pipe(ends), "pipe");
	child = must(fork(), "fork");
	if (!child) {
		must(unshare(CLONE_NEWNET), "unshare");
		must(write(ends[1], "", 1), "write");
		pause();
	}
	must(read(ends[0], path, 1), "read");
	snprintf(path, sizeof(path), "/proc/%d/ns/net", child);
	fd = open(path, O_RDONLY);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(ends[0]);
	close(ends[1]);
	return fd;
}

/* What is made by a call of its own, and that criu knows nothing of. */
static int unwritable(const char *kind)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(event), .config = PERF_COUNT_SW_CPU_CLOCK,
	};
	struct io_uring_params ring = { 0 };
	unsigned long ruleset = 1;

	if (!strcmp(kind, "perf"))
		return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
	if (!strcmp(kind, "userfaultfd"))
		return syscall(SYS_userfaultfd, O_CLOEXEC);
	if (!strcmp(kind, "landlock"))
		return syscall(444, &ruleset, sizeof(ruleset), 0);
	if (!strcmp(kind, "fscontext"))
		return syscall(430, "tmpfs", 0);
	if (!strcmp(kind, "mount"))
		return syscall(428, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */);
	if (!strcmp(kind, "secret"))
		return syscall(447, 0);
	if (!strcmp(kind, "ring"))
		return syscall(425, 4, &ring);
	if (!strcmp(kind, "net"))
		return another_network();
	if (!strcmp(kind, "queue")) {
		int fd = mq_open("/ckptadv-holder", O_RDWR | O_CREAT, 0600, NULL);

		mq_unlink("/ckptadv-holder");
		return fd;
	}
	errno = EINVAL;
	return -1;
}

/* The ring's own memory, mapped by it. */
static void map_ring(int fd)
{
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING) == MAP_FAILED)
		fail("ring");
}

static int tun(void)
{
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int fd = must(open("/dev/net/tun", O_RDWR), "/dev/net/tun");

	must(ioctl(fd, TUNSETIFF, &request), "tun");
	return fd;
}

static int netlink(const char *answered)
{
	struct {
		struct nlmsghdr head;
		struct rtgenmsg body;
	} question = {
		.head = { .nlmsg_len = sizeof(question), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.body = { .rtgen_family = AF_UNSPEC },
	};
	int fd = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "netlink");
	struct pollfd answer = { .fd = fd, .events = POLLIN };

	if (!answered)
		return fd;
	must(send(fd, &question, sizeof(question), 0), "question");
	must(poll(&answer, 1, 1000), "answer");
	return fd;
}

static int tcp_to(int port)
{
	struct sockaddr_in address = loopback();
	int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");

	address.sin_port = htons(port);
	must(connect(fd, (struct sockaddr *)&address, sizeof(address)), "connect");
	return fd;
}

static void fill(int fd, long bytes)
{
	char block[4096];

	memset(block, 'x', sizeof(block));
	for (; bytes > 0; bytes -= sizeof(block))
		must(write(fd, block, sizeof(block)), "fill");
}

static void memory(long mib)
{
	long words = (mib << 20) / sizeof(long);
	long *all = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED)
		fail("memory");
	for (long i = 0; i < words; i++)
		all[i] = i;
}

static void many(int first, int count)
{
	int null = must(open("/dev/null", O_RDWR), "/dev/null");

	for (int number = first; number < first + count && number < HIGHEST; number++) {
		must(dup2(null, number), "many");
		wanted[number] = 1;
	}
	close(null);
}

static void terminal(int master, int slave)
{
	struct termios raw;
	int fds[2];

	fds[0] = must(posix_openpt(O_RDWR | O_NOCTTY), "ptmx");
	must(grantpt(fds[0]), "grantpt");
	must(unlockpt(fds[0]), "unlockpt");
	fds[1] = must(open(ptsname(fds[0]), O_RDWR | O_NOCTTY), "pts");
	must(tcgetattr(fds[1], &raw), "tcgetattr");
	cfmakeraw(&raw);
	must(tcsetattr(fds[1], TCSANOW, &raw), "tcsetattr");
	place_both(fds, master, slave, "pty");
}

static void send_into(int socket, int number)
{
	char byte = 'x', control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &number, sizeof(int));
	must(sendmsg(socket, &message, 0), "sendmsg");
}

static void hold(int number, char *kind)
{
	char *argument = strchr(kind, ':');
	int other = 0, fd, fds[2];
	sigset_t none;

	if (argument) {
		*argument++ = 0;
		other = atoi(argument);
	}
#define IS(name) (!strcmp(kind, name))
	if (IS("reg"))
		place(open(argument, O_RDWR | O_CREAT, 0644), number, argument);
	else if (IS("ro"))
		place(open(argument, O_RDONLY | O_CREAT, 0644), number, argument);
	else if (IS("append"))
		place(open(argument, O_WRONLY | O_CREAT | O_APPEND, 0644), number, argument);
	else if (IS("sync"))
		place(open(argument, O_RDWR | O_CREAT | O_SYNC | O_NONBLOCK, 0644), number, argument);
	else if (IS("dir"))
		place(open(argument, O_RDONLY | O_DIRECTORY), number, argument);
	else if (IS("dev"))
		place(open(argument, O_RDWR), number, argument);
	else if (IS("fifo")) {
		mkfifo(argument, 0644);
		place(open(argument, O_RDWR), number, argument);
	} else if (IS("deleted")) {
		place(open(argument, O_RDWR | O_CREAT, 0644), number, argument);
		must(unlink(argument), argument);
	} else if (IS("map")) {
		map(place(open(argument, O_RDWR | O_CREAT, 0644), number, argument), argument);
	} else if (IS("gone")) {
		map(place(open(argument, O_RDWR | O_CREAT, 0644), number, argument), argument);
		must(unlink(argument), argument);
	} else if (IS("lease")) {
		close(open(argument, O_WRONLY | O_CREAT, 0644));
		place(open(argument, O_RDONLY), number, argument);
		must(fcntl(number, F_SETLEASE, F_RDLCK), "lease");
	} else if (IS("flock")) {
		place(open(argument, O_RDWR | O_CREAT, 0644), number, argument);
		must(flock(number, LOCK_EX), "flock");
	} else if (IS("dup"))
		place(dup(other), number, "dup");
	else if (IS("pipe")) {
		must(pipe(fds), "pipe");
		place_both(fds, number, other, "pipe");
	} else if (IS("pair") || IS("dgram") || IS("seq")) {
		int type = IS("pair") ? SOCK_STREAM : IS("seq") ? SOCK_SEQPACKET : SOCK_DGRAM;

		must(socketpair(AF_UNIX, type, 0, fds), "socketpair");
		place_both(fds, number, other, "socketpair");
	} else if (IS("tcp"))
		connection(number, other);
	else if (IS("pty"))
		terminal(number, other);
	else if (IS("listen"))
		place(listener(argument), number, argument);
	else if (IS("abstract"))
		place(abstract(argument), number, argument);
	else if (IS("accept"))
		place(accept(other, NULL, NULL), number, "accept");
	else if (IS("raw"))
		place(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), number, "raw");
	else if (IS("packet"))
		place(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_LOOPBACK)), number, "packet");
	else if (IS("fanotify"))
		place(fanotify_init(0, O_RDONLY), number, "fanotify");
	else if (IS("dead"))
		place(dead(), number, "pidfd");
	else if (IS("ns"))
		place(namespace(argument), number, argument);
	else if (IS("inet"))
		place(inet(SOCK_STREAM), number, "inet");
	else if (IS("udp"))
		place(inet(SOCK_DGRAM), number, "udp");
	else if (IS("stream"))
		stream(number, other);
	else if (IS("connect"))
		place(to(SOCK_STREAM, argument), number, argument);
	else if (IS("bound"))
		place(bound(argument), number, argument);
	else if (IS("to"))
		place(to(SOCK_DGRAM, argument), number, argument);
	else if (IS("ofd"))
		locked(number, argument, F_OFD_SETLK);
	else if (IS("posix"))
		locked(number, argument, F_SETLK);
	else if (IS("unwritable"))
		place(unwritable(argument), number, argument);
	else if (IS("mapped-ring")) {
		place(unwritable("ring"), number, kind);
		map_ring(number);
	} else if (IS("tun"))
		place(tun(), number, "tun");
	else if (IS("vsock"))
		place(socket(AF_VSOCK, SOCK_STREAM, 0), number, "vsock");
	else if (IS("netlink"))
		place(netlink(argument), number, "netlink");
	else if (IS("pidfd"))
		place(pidfd(other), number, "pidfd");
	else if (IS("tcpto"))
		place(tcp_to(other), number, "tcpto");
	else if (IS("many"))
		many(number, other);
	else if (IS("fill"))
		fill(number, other);
	else if (IS("memory"))
		memory(other);
	else if (IS("eventfd"))
		place(eventfd(7, 0), number, "eventfd");
	else if (IS("timerfd"))
		place(timerfd_create(CLOCK_MONOTONIC, 0), number, "timerfd");
	else if (IS("signalfd")) {
		sigemptyset(&none);
		place(signalfd(-1, &none, 0), number, "signalfd");
	} else if (IS("inotify")) {
		fd = must(inotify_init(), "inotify");
		must(inotify_add_watch(fd, "/tmp", IN_CREATE), "inotify");
		place(fd, number, "inotify");
	} else if (IS("memfd"))
		place(memfd_create("held", 0), number, "memfd");
	else if (IS("epoll"))
		watch(epoll_create1(0), number, argument);
	else if (IS("send"))
		send_into(number, other);
	else if (IS("cloexec"))
		must(fcntl(number, F_SETFD, FD_CLOEXEC), "cloexec");
	else if (IS("write"))
		must(write(number, argument, strlen(argument)), "write");
	else if (IS("close")) {
		close(number);
		wanted[number] = 0;
	} else {
		errno = EINVAL;
		fail(kind);
	}
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void another_thread(void)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, wait_for_ever, NULL);
	if (errno)
		fail("thread");
}

int main(int argc, char **argv)
{
	int counts = 0, fd;
	char line[32];

	if (argc < 2) {
		dprintf(2, "usage: holder READY WORD...\n");
		return 2;
	}
	ready = argv[1];
	if (!argv[2] || strcmp(argv[2], "job"))
		setsid();
	for (fd = 3; fd < HIGHEST; fd++)
		close(fd);
	wanted[0] = wanted[1] = wanted[2] = 1;
	for (char **word = argv + 2; *word; word++) {
		char *is = strchr(*word, '=');

		if (!strcmp(*word, "count"))
			counts = 1;
		else if (!strcmp(*word, "job") && word == argv + 2)
			continue;
		else if (!strcmp(*word, "ctty"))
			must(ioctl(0, TIOCSCTTY, 0), "ctty");
		else if (!strcmp(*word, "thread"))
			another_thread();
		else if (!strcmp(*word, "fork") || !strcmp(*word, "clone")) {
			long flags = SIGCHLD | (**word == 'c' ? CLONE_FILES : 0);

			if (syscall(SYS_clone, flags, 0, 0, 0, 0) > 0)
				break;
			counts = 0;
			shares_the_table |= flags & CLONE_FILES;
		} else if (is) {
			*is = 0;
			hold(atoi(*word), is + 1);
		} else {
			errno = EINVAL;
			fail(*word);
		}
	}
	for (fd = 0; fd < HIGHEST && !shares_the_table; fd++)
		if (!wanted[fd])
			close(fd);
	fd = must(open(ready, O_WRONLY | O_CREAT | O_APPEND, 0644), ready);
	must(dprintf(fd, "%d\n", getpid()), ready);
	close(fd);
	for (int n = 1; counts; n++) {
		snprintf(line, sizeof(line), "%d\n", n);
		if (write(1, line, strlen(line)) < 0)
			_exit(3);
		usleep(20000);
	}
	wait_for_ever(NULL);
}

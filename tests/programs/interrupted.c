/*
 * interrupted handler|child: marks a descriptor (by fcntl(2), with the library), and reads for the first time since.
 * Meanwhile there reads, too,
 *   handler  a signal handler, every millisecond;
 *   child    a child that is forked when a tenth of a second of that is over.
 * Ends with status 0, or is ended by SIGALRM after four seconds where a read does not end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int zero;

static void look(int nothing)
{
	char byte;

	(void)nothing;
	(void)!read(zero, &byte, 1);
}

static void *look_first(void *nothing)
{
	look(0);
	return nothing;
}

static int handler(void)
{
	const struct itimerspec often = { { 0, 1000000 }, { 0, 1000000 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;

	signal(SIGUSR1, look);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &often, NULL))
		return 2;
	look(0);
	return 0;
}

static int child(void)
{
	pthread_t thread;
	pid_t pid;
	int status = -1;

	pthread_create(&thread, NULL, look_first, NULL);
	usleep(100000);
	pid = fork();
	if (pid == 0) {
		alarm(4);
		look(0);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	pthread_join(thread, NULL);
	return status != 0;
}

int main(int argc, char **argv)
{
	alarm(4);
	zero = open("/dev/zero", O_RDONLY);
	if (argc != 2 || fcntl(zero, F_SETFD, 2) < 0)
		return 2;
	return strcmp(argv[1], "handler") ? child() : handler();
}

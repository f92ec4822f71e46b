/*
 * In place of a kernel with the restart call, for measuring: preloaded into restart.c, it reads the image up to its
 * last record as fast as it can, and the task ends.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

enum { RESTART = 302 };

static const unsigned char tail[16] = "\x29\x23\0\0\x10\0\0\0\0\xef\xde\xc0\x0c\x2a\x2d";

static int drain(int fd)
{
	static unsigned char buffer[16 + 64 * 1024];
	ssize_t n;

	/* The last bytes of what was read before stand in front. */
	while (memcmp(buffer, tail, sizeof(tail))) {
		n = read(fd, buffer + sizeof(tail), sizeof(buffer) - sizeof(tail));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		memmove(buffer, buffer + n, sizeof(tail));
	}
	return 0;
}

long syscall(long number, ...)
{
	long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	long argument[6];
	va_list arguments;
	int i, result;

	va_start(arguments, number);
	for (i = 0; i < 6; i++)
		argument[i] = va_arg(arguments, long);
	va_end(arguments);
	if (number != RESTART)
		return next(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
	while ((int)argument[0] == 0)
		pause();
	result = drain((int)argument[1]);
	if (result < 0)
		errno = EINVAL;
	else
		kill((pid_t)argument[0], SIGKILL);
	return result;
}

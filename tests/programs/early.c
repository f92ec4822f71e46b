/*
 * A library to preload beside another: its constructor makes the calls that the other one interposes, perhaps before
 * that one's own constructor, and marks descriptor 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FD_CR_PRESERVE = 2 };

__attribute__((constructor)) static void early(void)
{
	char byte;
	int fd = open("/dev/null", O_RDONLY), copy = fcntl(fd, F_DUPFD, 50);

	if (fd < 0 || copy < 50 || read(fd, &byte, 1) != 0 || dup2(fd, copy) != copy || dup3(fd, copy, 0) != copy)
		abort();
	if (fcntl(0, F_SETFD, FD_CR_PRESERVE) != 0 || fclose(fdopen(copy, "r")) != 0 || close(fd) != 0)
		abort();
	if (syscall(SYS_getpid) != getpid() || execl("/nonexistent", "none", NULL) != -1 || errno != ENOENT)
		abort();
}

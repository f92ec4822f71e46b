/* plain: a program that has nothing to do with restarts, and calls everything
 * that the library interposes. What it does between its two marks is compared. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *in_a_thread(void *unused)
{
    char byte;
    int zero = open("/dev/zero", O_RDONLY);
    if (read(zero, &byte, 1) != 1)
        _exit(3);
    close(zero);
    return unused;
}

int main(void)
{
    char buffer[64];
    struct rlimit limit;
    pthread_t thread;

    access("/mark", F_OK);
    errno = 123;
    int zero = open("/dev/zero", O_RDONLY);
    if (read(zero, buffer, sizeof buffer) != sizeof buffer)
        return 1;
    if (dup2(zero, 50) != 50 || dup3(zero, 51, O_CLOEXEC) != 51)
        return 1;
    close(50);
    close(51);
    close(zero);
    syscall(SYS_sched_yield);
    getrlimit(RLIMIT_NOFILE, &limit);
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
    if (errno != 123)
        return 2;
    if (close(50) != -1 || errno != EBADF)
        return 2;
    access("/mark", F_OK);

    if (pthread_create(&thread, NULL, in_a_thread, NULL) || pthread_join(thread, NULL))
        return 3;
    pid_t child = fork();
    if (child == 0) {
        in_a_thread(NULL);
        return 0;
    }
    int status;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 4;
}

/*
 * signals: says "ready", then which signals it gets, one a line, with who sent it ("kernel", or a process), and ends
 * with status 7 after SIGUSR2. SIGTSTP stops it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	const int numbers[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCONT };
	sigset_t set;
	siginfo_t info;
	int number = 0;

	sigemptyset(&set);
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (number != SIGUSR2) {
		number = sigwaitinfo(&set, &info);
		if (number > 0)
			printf("SIG%s %s\n", sigabbrev_np(number), info.si_code > 0 ? "kernel" : "process");
	}
	return 7;
}

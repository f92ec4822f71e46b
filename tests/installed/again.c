/* again LIBRARY LOG PROGRAM ARGUMENTS...: a restart program, with the log on 1 and 2 of the tasks, and without 3. */
#include <cradvise.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int log = argc < 4 ? -1 : open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0666);

	if (log == -1 || dup2(log, 1) == -1 || dup2(log, 2) == -1)
		return 2;
	if (cradvise(1, CR_ADV_PRESERVE | CR_ADV_IGNORE) == -1 || cradvise(2, CR_ADV_PRESERVE | CR_ADV_IGNORE) == -1 ||
	    cradvise(3, CR_ADV_IGNORE) == -1)
		return 3;
	cradvise_exec(argv[1], argv[3], argv + 3);
	perror(argv[3]);
	return 4;
}

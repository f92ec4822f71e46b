/*
 * starter: starts the criu in PATH with the arguments that it gets, as container runtimes do, which speak to
 * "criu swrk".
 */
#include <stdio.h>
#include <unistd.h>

const char *volatile protocol = "swrk";

int main(int argc, char **argv)
{
	(void)argc;
	argv[0] = "criu";
	execvp("criu", argv);
	perror(protocol);
	return 1;
}

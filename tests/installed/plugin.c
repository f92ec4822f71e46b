/* plugin: cradvise() for a program that has it by no other way. */
#include <cradvise.h>

int plugin_advise(int fd, int advice);
int plugin_query(int fd);

int plugin_advise(int fd, int advice)
{
	return cradvise(fd, advice);
}

int plugin_query(int fd)
{
	return cradvise_query(fd);
}

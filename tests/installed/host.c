/*
 * host PLUGIN: has a plugin mark 0 and unloads it, waits for a line, and loads it again. At each step it prints what
 * the plugin says of 0, or that it is gone.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void *load(const char *path, const char *name, int (**function)(int, int))
{
	void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	void *symbol = plugin ? dlsym(plugin, name) : NULL;

	if (!symbol)
		fprintf(stderr, "%s\n", dlerror());
	memcpy(function, &symbol, sizeof(symbol));
	return symbol ? plugin : NULL;
}

int main(int argc, char **argv)
{
	int (*call)(int, int);
	void *plugin;
	int step;

	if (argc != 2)
		return 1;
	for (step = 0; step < 2; step++) {
		plugin = load(argv[1], step ? "plugin_query" : "plugin_advise", &call);
		if (!plugin)
			return 1;
		/* The one that asks takes no second argument, and minds none. */
		printf("%d ", call(0, 2));
		dlclose(plugin);
		puts(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) ? "stays" : "gone");
		fflush(stdout);
		getchar();
	}
	return 0;
}

/* counter: counts on standard output, a line every 200 ms, and holds whatever
 * else it was started with. The program that the demo dumps and restores. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    for (unsigned n = 1;; n++) {
        char line[32];
        int length = snprintf(line, sizeof line, "count %u\n", n);
        if (write(1, line, length) < 0)
            return 1;
        usleep(200 * 1000);
    }
}

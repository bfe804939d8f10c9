/* A wall clock of one's own, for a process and its children that are started with LD_PRELOAD: the machine's, and as many
   nanoseconds as the file that WALL_OFFSET names says. It can be set while they run. No other clock is touched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*theirs)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WALL_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    *(void **)&theirs = dlsym(RTLD_NEXT, "clock_gettime");
    if (fd >= 0) {
        void *place = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
        offset = place == MAP_FAILED ? NULL : place;
        close(fd);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!theirs) begin();
    int failed = theirs(clock, now);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t whole = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *offset;
        now->tv_sec = whole / 1000000000;
        now->tv_nsec = whole % 1000000000;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return (time_t)-1;
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}

/* A disk that fails when it is told to: preloaded before libc by tests/failing_disk.py.

   The file named by CAREPOS_DISK says what fails: a line "fsync 5 journal.db" lets every fsync and
   fdatasync of a file with that in its name fail with errno 5; "write 28 .db" every write. Without
   the file nothing fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int (*sync_of(const char *name))(int) { return (int (*)(int))dlsym(RTLD_NEXT, name); }

static int told(int fd, const char *what) {
  static __thread int within;
  const char *path = getenv("CAREPOS_DISK");
  char link[64], name[4096], op[16], part[256];
  int error = 0, found = 0;
  if (path == NULL || within) return 0;
  within = 1;
  FILE *file = fopen(path, "r");
  if (file != NULL) {
    found = fscanf(file, "%15s %d %255s", op, &error, part);
    fclose(file);
  }
  if (found == 3 && strcmp(op, what) == 0) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) error = 0;
    else {
      name[length] = 0;
      if (strstr(name, part) == NULL) error = 0;
    }
  } else error = 0;
  within = 0;
  return error;
}

#define FAIL(fd, what) { int error = told(fd, what); if (error) { errno = error; return -1; } }

int fsync(int fd) { FAIL(fd, "fsync") return sync_of("fsync")(fd); }
int fdatasync(int fd) { FAIL(fd, "fsync") return sync_of("fdatasync")(fd); }
ssize_t write(int fd, const void *data, size_t count) {
  FAIL(fd, "write")
  return ((ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(fd, data, count);
}
ssize_t pwrite(int fd, const void *data, size_t count, off_t at) {
  FAIL(fd, "write")
  return ((ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite"))(fd, data, count, at);
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
  FAIL(fd, "write")
  return ((ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(fd, data, count, at);
}

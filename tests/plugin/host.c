/* A program in C that loads a plug-in built on thole, as an interpreter or a server does.
 * Usage: host WAY PLUGIN [OTHER...]: the others are loaded first, and stay. The way `by-name`: PLUGIN is libthole itself,
 * whose names of C are looked up. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char* plugin;

static int load_and_use(int then_close) {
  void* opened = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
  if (opened == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
  int (*use)(void);
  *(void**)&use = dlsym(opened, "use_thole");
  if (use == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 4;
  }
  const int result = use();
  if (then_close && dlclose(opened) != 0) return 5;
  return result;
}

static void* library;

static void* name(const char* wanted) {
  void* const found = dlsym(library, wanted);
  if (found != NULL) return found;
  fprintf(stderr, "%s\n", dlerror());
  exit(12);
}

/* What a program does that has no header of thole's: an interpreter, or one that does without where it is missing. */
static int by_name(void) {
  library = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
  int (*simulated)(const void*, void**);
  int (*make_arena)(const void*, const void*, void**);
  int (*make_heap)(const void*, const void*, void**);
  int (*allocate)(const void*, size_t, size_t, void**);
  int (*deallocate)(const void*, void*);
  *(void**)&simulated = name("thole_device_simulated");
  *(void**)&make_arena = name("thole_arena_create");
  *(void**)&make_heap = name("thole_heap_create");
  *(void**)&allocate = name("thole_allocate");
  *(void**)&deallocate = name("thole_deallocate");
  void *device = NULL, *arena = NULL, *heap = NULL, *data = NULL;
  if (simulated(NULL, &device) != 0 || make_arena(device, NULL, &arena) != 0 || make_heap(arena, NULL, &heap) != 0)
    return 13;
  if (allocate(heap, 1000, 0, &data) != 0) return 14;
  memset(data, 1, 1000);
  return deallocate(heap, data) != 0 ? 15 : dlclose(library);
}

static void* on_thread(void* unused) {
  (void)unused;
  return (void*)(long)load_and_use(0);
}

static int in_a_thread(void) {
  pthread_t thread;
  void* result = NULL;
  if (pthread_create(&thread, NULL, on_thread, NULL) != 0 || pthread_join(thread, &result) != 0) return 6;
  return (int)(long)result;
}

static int in_a_child(void) {
  const pid_t child = fork();
  if (child == 0) exit(load_and_use(0));
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 7;
  return WEXITSTATUS(status);
}

/* The library's threads go on when the plug-in is closed, and it can be loaded again. */
static int again_and_again(void) {
  for (int i = 0; i != 3; ++i) {
    const int result = load_and_use(1);
    if (result != 0) return result;
  }
  return 0;
}

int main(int count, char** words) {
  if (count < 3) return 8;
  plugin = words[2];
  for (int i = 3; i < count; ++i)
    if (dlopen(words[i], RTLD_NOW | RTLD_LOCAL) == NULL) {
      fprintf(stderr, "%s\n", dlerror());
      return 9;
    }
  if (strcmp(words[1], "at-once") == 0) return load_and_use(0);
  if (strcmp(words[1], "by-name") == 0) return by_name();
  if (strcmp(words[1], "in-a-thread") == 0) return in_a_thread();
  if (strcmp(words[1], "in-a-child") == 0) return in_a_child();
  if (strcmp(words[1], "after-a-child") == 0) return in_a_child() != 0 ? 10 : load_and_use(0);
  if (strcmp(words[1], "before-a-child") == 0) return load_and_use(0) != 0 ? 11 : in_a_child();
  if (strcmp(words[1], "closed-and-opened") == 0) return again_and_again();
  return 8;
}

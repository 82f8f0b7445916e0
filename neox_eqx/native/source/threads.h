// Work in chunks on the threads that XLA has already.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

namespace neox {

struct Job {
  std::atomic<int64_t> next{0}, done{0};
  int64_t chunks;
  void (*call)(void*, int64_t);
  void* data;

  void work() {
    int64_t own = 0;
    for (int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks; own++) call(data, c);
    if (own) done.fetch_add(own, std::memory_order_release);
  }

  void wait() const {
    for (int spins = 0; done.load(std::memory_order_acquire) < chunks; spins++) {
      if (spins >= 2000) std::this_thread::yield();
#if defined(__x86_64__)
      else __builtin_ia32_pause();
#endif
    }
  }
};

// Calls f(0) to f(chunks - 1) on at most so many threads, one of which is the caller's.
//
// Nothing waits for a thread of the pool to start: one that comes late finds no chunk left, so
// calls that wait within the pool's own threads never wait for each other.
template <class Pool, class F>
void parallel(Pool& pool, int64_t threads, int64_t chunks, F&& f) {
  threads = std::min({threads, chunks, int64_t(pool.num_threads())});
  if (threads < 2) {
    for (int64_t c = 0; c < chunks; c++) f(c);
    return;
  }
  auto job = std::make_shared<Job>();
  job->chunks = chunks;
  job->call = [](void* data, int64_t c) { (*static_cast<std::remove_reference_t<F>*>(data))(c); };
  job->data = &f;
  for (int64_t t = 1; t < threads; t++) pool.Schedule([job] { job->work(); });
  job->work();
  job->wait();
}

}  // namespace neox

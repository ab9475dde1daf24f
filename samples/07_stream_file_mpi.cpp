// The main job over ranks: each loads its part of the files into its device, the findings are reduced, and each sends
// what its device has to its neighbour, in a pinned buffer that a borrow holds while MPI reads or writes it.

#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thole/mpi.hpp>
#include <thole/thole.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "stream_file/interrupt.hpp"
#include "stream_file/job.hpp"
#include "stream_file/options.hpp"
#include "stream_file/progress.hpp"

namespace {

using namespace stream_file;

constexpr const char* program = "07_stream_file_mpi";

/// This process among the ranks.
struct Ranks {
  int rank = 0, count = 1;
  int here = 0, count_here = 1;  // of this machine's

  Ranks() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    MPI_Comm machine = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, &here);
    MPI_Comm_size(machine, &count_here);
    MPI_Comm_free(&machine);
  }

  template <class T>
  T reduce(T value, MPI_Datatype type, MPI_Op operation) const {
    T all{};
    MPI_Allreduce(&value, &all, 1, type, operation, MPI_COMM_WORLD);
    return all;
  }
  std::uint64_t sum(std::uint64_t value) const { return reduce(value, MPI_UINT64_T, MPI_SUM); }
};

/// Does a step in all ranks and waits for all of them: throws in all where it failed in one, so that nobody waits for a
/// rank that has gone. The first that failed says why; the text of the others is empty.
struct Failed {
  std::string text;
  int status;
};
void step(const Ranks& ranks, const std::function<void()>& f) {
  Failed mine{"", 0};
  try {
    f();
  } catch (const Interrupted& interrupted) {
    mine = {interrupted.what(), interrupted.exit_status()};
  } catch (const std::exception& error) {
    mine = {error.what(), 1};
  }
  const int first = ranks.reduce(mine.status == 0 ? ranks.count : ranks.rank, MPI_INT, MPI_MIN);
  if (first == ranks.count) return;
  MPI_Bcast(&mine.status, 1, MPI_INT, first, MPI_COMM_WORLD);
  if (ranks.rank != first) mine.text.clear();
  throw mine;
}

/// A GPU for each rank of a machine, where it has so many; else they share one.
thole::Device device_for(const Ranks& ranks) {
  if (std::getenv("THOLE_DEVICE") == nullptr)
    if (auto own = thole::Device::try_cuda(ranks.here)) return std::move(*own);
  return thole::Device::best();
}

/// The job in this rank. Its members do their part alone and may throw, but for those that say so: there all ranks
/// meet.
class RankJob {
 public:
  RankJob(const Ranks& ranks, const Options& options) : ranks_(ranks), options_(options) {}

  void open() {
    if (!options_.output.empty() || !options_.plot.empty() || !options_.trace.empty())
      throw std::runtime_error("--output, --plot and --trace are for one process: 06_stream_file has them");
    for (const auto& path : options_.files) {
      inputs_.emplace_back(path, options_.wishes.direct);
      if (!inputs_.back().size())
        throw std::runtime_error(
            fmt::format("{} has no size, and cannot be shared among ranks", inputs_.back().path()));
    }
    device_ = device_for(ranks_);
    plan(options_.wishes.chunk);
  }

  /// All ranks: cuts as the first one does.
  void agree() {
    chunk_ = plan_.chunk;
    MPI_Bcast(&chunk_, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
  }

  void prepare() {
    plan(static_cast<std::size_t>(chunk_));
    if (plan_.chunk != chunk_) throw std::runtime_error("the files have other sizes here than in rank 0");
    feed_.emplace(inputs_, plan_.chunk, UINT64_MAX, static_cast<std::size_t>(ranks_.rank),
                  static_cast<std::size_t>(ranks_.count));
    plan_ = for_pieces(plan_, feed_->pieces());
    if (!DeviceSide::can_check(*device_)) plan_.check = Check::none;
    // Besides the window, the two buffers of the exchange.
    const std::size_t bytes = plan_.pinned_bytes + 2 * (plan_.chunk + direct_alignment);
    heap_.emplace(thole::PinnedArena(*device_, {.bytes = bytes}),
                  thole::HeapOptions{.alignment = plan_.direct ? direct_alignment : thole::HeapOptions{}.alignment});
    memory_.emplace(*heap_, plan_, *feed_, DeviceSide::limit(options_.device_memory, *device_));
  }

  void load() {
    std::optional<Progress> progress;
    if (ranks_.rank == 0) progress.emplace(feed_->total());
    Job job{*feed_, *heap_, *memory_, plan_};
    result_ = run(job, [&] {
      if (progress) progress->show(job.bytes);
    });
  }

  /// What the next rank gets: the front of what the device has, in a pinned buffer.
  void fill_outgoing() {
    stream_.emplace(*device_);
    ours_ = memory_->front(std::min<std::size_t>(plan_.chunk, std::size_t{1} << 30));
    outgoing_.emplace(heap_->make_buffer<unsigned char>(ours_.size()));
    outgoing_->async_from_device(*stream_, ours_);
    filled_.emplace(outgoing_->borrow());  // waits for the device
    sent_ = {filled_->size(), piece_sum(filled_->span(), 0)};
  }

  /// All ranks: says what comes.
  void announce() {
    MPI_Sendrecv(&sent_, sizeof sent_, MPI_BYTE, next(), 0, &coming_, sizeof coming_, MPI_BYTE, previous(), 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }

  void make_incoming() { incoming_.emplace(heap_->make_buffer<unsigned char>(coming_.bytes)); }

  /// All ranks: to the next, from the previous.
  void exchange() {
    auto receiving = thole::mpi_irecv(incoming_->borrow_mut(), previous(), 1, MPI_COMM_WORLD);
    auto sending = thole::mpi_isend(std::move(*filled_), next(), 1, MPI_COMM_WORLD);
    // What would go wrong without the borrows: the device overwrites what MPI sends, or reads what is not there yet.
    // Both are refused. And the buffer is dropped: the request holds its memory, so that nobody else gets it.
    const auto overwritten = outgoing_->try_async_from_device(*stream_, ours_);
    const auto read_early = incoming_->try_async_to_device(*stream_);
    refused_ = !overwritten && overwritten.error().errc() == thole::Errc::borrowed &&  //
               !read_early && read_early.error().errc() == thole::Errc::borrowed;
    outgoing_.reset();
    received_.emplace(std::move(receiving).wait());
    (void)std::move(sending).wait();
  }

  void check_exchange() const {
    if (!refused_) throw std::runtime_error("a stream got a buffer that MPI still used");
    if (piece_sum(received_->span(), 0) != coming_.sum)
      throw std::runtime_error(fmt::format("what came from rank {} is not what it sent", previous()));
  }

  /// All ranks: what they found, together; the slowest rank's time.
  std::string report() {
    Result all;
    all.bytes = ranks_.sum(result_.bytes);
    all.pieces = ranks_.sum(result_.pieces);
    all.on_cpu.sum = ranks_.sum(result_.on_cpu.sum);
    all.on_device.sum = ranks_.sum(result_.on_device.sum);
    all.seconds = ranks_.reduce(result_.seconds, MPI_DOUBLE, MPI_MAX);
    const auto threads = ranks_.sum(plan_.threads), pinned = ranks_.sum(heap_->arena().capacity());
    const auto exchanged = ranks_.sum(coming_.bytes), in_one_piece = ranks_.sum(memory_->holds_all() ? 1 : 0);
    if (options_.json)
      return nlohmann::ordered_json{{"ranks", ranks_.count},
                                    {"bytes", all.bytes},
                                    {"pieces", all.pieces},
                                    {"chunk_bytes", plan_.chunk},
                                    {"threads", threads},
                                    {"sum", as_text(all.on_cpu.sum)},
                                    {"sum_by_device", as_text(all.on_device.sum)},
                                    {"seconds", all.seconds},
                                    {"gigabytes_per_second", all.gigabytes_per_second()},
                                    {"pinned_bytes", pinned},
                                    {"exchanged_bytes", exchanged},
                                    {"ranks_that_hold_all", in_one_piece}}
                 .dump(2) +
             '\n';
    const auto rank = [](std::uint64_t count) { return fmt::format("{} rank{}", count, count == 1 ? "" : "s"); };
    return fmt::format(
        "{}: all of it is in the devices of {} as it was read{}\n\n"
        "  bytes               {}, in {} pieces\n"
        "  GB/s                {:.2f}, by {} threads; the time of the slowest rank\n"
        "  sum                 {}, the ranks' added up\n"
        "  pinned bytes        {}, in all ranks\n"
        "  exchanged           {} bytes, from each rank's device to its neighbour's memory, as they were sent\n",
        inputs_.front().path(), rank(static_cast<std::uint64_t>(ranks_.count)),
        plan_.check == Check::none ? ", unchecked" : "", all.bytes, all.pieces, all.gigabytes_per_second(), threads,
        as_text(all.on_cpu.sum), pinned, exchanged);
  }

 private:
  struct Announcement {
    std::uint64_t bytes = 0, sum = 0;
  };

  int next() const { return (ranks_.rank + 1) % ranks_.count; }
  int previous() const { return (ranks_.rank + ranks_.count - 1) % ranks_.count; }

  void plan(std::size_t chunk) {
    std::uint64_t largest = 0;
    for (const auto& input : inputs_) largest = std::max(largest, *input.size());
    const auto here = static_cast<std::size_t>(ranks_.count_here);
    Wishes wishes = options_.wishes;
    wishes.chunk = chunk;
    wishes.arena = std::max<std::size_t>(wishes.arena / here, 1);  // the option is the machine's, in all
    plan_ = make_plan(wishes, largest, std::max<std::size_t>(std::thread::hardware_concurrency() / here, 1),
                      device_->backend() == thole::Backend::simulated);
  }

  const Ranks& ranks_;
  const Options& options_;
  std::vector<InputFile> inputs_;
  std::optional<thole::Device> device_;
  Plan plan_;
  std::uint64_t chunk_ = 0;
  std::optional<Feed> feed_;
  std::optional<thole::PinnedHeap> heap_;
  std::optional<DeviceSide> memory_;
  Result result_;

  std::optional<thole::Stream> stream_;
  thole::DeviceSpan<const unsigned char> ours_;
  std::optional<thole::PinnedBuffer<unsigned char>> outgoing_, incoming_;
  std::optional<thole::Borrow<unsigned char>> filled_;
  std::optional<thole::BorrowMut<unsigned char>> received_;
  Announcement sent_, coming_;
  bool refused_ = false;
};

int run_ranks(const Ranks& ranks, int argc, char** argv) {
  int status = 0;
  const auto options = parse(argc, argv, {program, ranks.rank == 0}, status);
  if (!options) return status;
  try {
    RankJob job(ranks, *options);
    step(ranks, [&] { job.open(); });
    job.agree();
    step(ranks, [&] { job.prepare(); });
    MPI_Barrier(MPI_COMM_WORLD);  // they start together
    step(ranks, [&] { job.load(); });
    step(ranks, [&] { job.fill_outgoing(); });
    job.announce();
    step(ranks, [&] { job.make_incoming(); });
    job.exchange();
    step(ranks, [&] { job.check_exchange(); });
    const std::string text = job.report();
    step(ranks, [&] {
      if (ranks.rank != 0) return;
      if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw std::system_error(errno, std::generic_category(), "cannot write standard output");
    });
  } catch (const Failed& failed) {
    if (!failed.text.empty()) fmt::print(stderr, "{}: rank {}: {}\n", program, ranks.rank, failed.text);
    return failed.status;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int given = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &given);  // the readers' threads call no MPI
  catch_signals();
  const int status = run_ranks(Ranks(), argc, argv);
  MPI_Finalize();
  return status;
}

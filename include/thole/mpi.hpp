#pragma once

// For programs that use MPI: sends and receives that hold the pinned memory which MPI still reads or writes.

#if !__has_include(<mpi.h>)
#error "<thole/mpi.hpp> needs an MPI's mpi.h on the include path"
#endif
#include <mpi.h>

#include <climits>
#include <string>
#include <utility>

#include <thole/borrow.hpp>
#include <thole/error.hpp>

namespace thole::inline v0_1 {

/// A send or receive that MPI has not finished, with the borrow of the memory that it uses; move-only. While it lives
/// the buffer may be dropped, and its memory is not used again; handing it to a stream that conflicts, or borrowing it
/// so, is `Errc::borrowed`. Destroying it waits for MPI, which can be told in no other way that it must let go: this is
/// the one destructor of thole's that blocks.
///
/// Thread safety: as MPI was initialised for; an object is for one thread at a time.
template <class BorrowOfSome>
class [[nodiscard]] MpiRequest {
 public:
  /// Of a request that uses the memory of the borrow.
  MpiRequest(BorrowOfSome borrow, MPI_Request request) noexcept : borrow_(std::move(borrow)), request_(request) {}
  MpiRequest(MpiRequest&& other) noexcept
      : borrow_(std::move(other.borrow_)), request_(std::exchange(other.request_, MPI_REQUEST_NULL)) {}
  MpiRequest& operator=(MpiRequest&&) = delete;
  ~MpiRequest() { finish(); }

  /// Whether MPI has finished. Never waits.
  [[nodiscard]] bool ready() {
    int done = 0;
    MPI_Test(&request_, &done, MPI_STATUS_IGNORE);
    return done != 0;
  }
  /// Waits for MPI and gives the borrow back.
  BorrowOfSome wait() && {
    finish();
    return std::move(borrow_);
  }

 private:
  void finish() {
    if (request_ != MPI_REQUEST_NULL) MPI_Wait(&request_, MPI_STATUS_IGNORE);
  }

  BorrowOfSome borrow_;
  MPI_Request request_;
};

namespace detail {
template <class T>
int mpi_count(gsl::span<T> elements, const char* call) {
  if (elements.size_bytes() > INT_MAX)
    throw Error(Errc::too_large, std::string(call) + ": " + std::to_string(elements.size_bytes()) +
                                     " bytes are more than MPI sends at once, " + std::to_string(INT_MAX));
  return static_cast<int>(elements.size_bytes());
}
}  // namespace detail

/// Sends the elements, as bytes; returns at once. Throws `Error` with `Errc::too_large` from 2 GiB on. What MPI refuses
/// goes to the communicator's error handler.
template <class T>
MpiRequest<Borrow<T>> mpi_isend(Borrow<T> elements, int to, int tag, MPI_Comm communicator) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int bytes = detail::mpi_count(elements.span(), "mpi_isend");
  MPI_Isend(elements.data(), bytes, MPI_BYTE, to, tag, communicator, &request);
  return {std::move(elements), request};
}

/// Receives as many bytes as there are elements for, at most; returns at once. Throws as `mpi_isend`.
template <class T>
MpiRequest<BorrowMut<T>> mpi_irecv(BorrowMut<T> elements, int from, int tag, MPI_Comm communicator) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int bytes = detail::mpi_count(elements.span(), "mpi_irecv");
  MPI_Irecv(elements.data(), bytes, MPI_BYTE, from, tag, communicator, &request);
  return {std::move(elements), request};
}

}  // namespace thole::inline v0_1

"""The picture of the report at the top of README: the page of `balmix-demo`, in a headless Chromium.

    balmix-demo && python docs/picture.py balmix-demo/report.html

The page is drawn 1,100 pixels wide, in light colours, and its first 888 pixels are kept."""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

width,height = 1100,888

def picture(
    page, # A report
    dst # The PNG to write
)->None:
    "Draw the first screen of a page"
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None: sys.exit("Chromium is needed: Debian's package `chromium`.")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', f'--user-data-dir={profile}',
             f'--window-size={width},{height}', '--virtual-time-budget=5000', f'--screenshot={Path(dst).resolve()}',
             Path(page).resolve().as_uri()], check=True, capture_output=True)

if __name__=='__main__':
    images = Path(__file__).resolve().parent/'images'
    picture(sys.argv[1], images/'report.png')
